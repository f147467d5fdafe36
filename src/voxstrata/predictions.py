"""Predictions files: one JSON object a line. Evaluation reads nothing else, so any system can be scored."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from voxstrata.documents import parse_json, text_encoding, without_mark
from voxstrata.errors import PredictionsError
from voxstrata.labels import DIMENSIONS, LARGEST_RATING, is_one_line
from voxstrata.runs import atomic_write

#: What is said of an answer that is none.
NOT_FINITE = (
    "the model answers with numbers that are not finite (NaN or infinite); see whether its weights are "
    "whole, or train it again"
)
_ANSWERS = ("emotion", "probabilities", "transcript", "classes", "unsure", *DIMENSIONS)


@dataclass(frozen=True)
class Prediction:
    """One row of a predictions file. What a task lacks is None, and absent from the file.

    Args:
        id: unique in the file.
        path: the audio file.
        speaker: for resampling by speaker.
        emotion: predicted class name.
        probabilities: class name -> probability; sums to 1.
        reference_emotion: true class name.
        transcript: recognised words.
        reference_transcript: true words.
        arousal, valence, dominance: predicted ratings, on the scale of the references.
        reference_arousal, reference_valence, reference_dominance: annotators' mean ratings.
        classes: answers of further class tasks: field -> class name -> probability, e.g.
            {"gender": {"female": 0.9, "male": 0.1}}.
        reference_classes: field -> true class name.
        note: what one should know of the recording, e.g. that its band is narrow; scored as any row.
        unsure: whether the emotion's probability is below what `--unsure-below` asks for; None: not asked.
        error: why there is no answer; what was known before (path, speaker, references) stays.

    Example:
        ``vs.Prediction("call-1", emotion="anger", reference_emotion="neutral", speaker="anna")``
    """

    id: str
    path: str | None = None
    speaker: str | None = None
    emotion: str | None = None
    probabilities: Mapping[str, float] | None = None
    reference_emotion: str | None = None
    transcript: str | None = None
    reference_transcript: str | None = None
    arousal: float | None = None
    valence: float | None = None
    dominance: float | None = None
    reference_arousal: float | None = None
    reference_valence: float | None = None
    reference_dominance: float | None = None
    classes: Mapping[str, Mapping[str, float]] | None = None
    reference_classes: Mapping[str, str] | None = None
    note: str | None = None
    unsure: bool | None = None
    error: str | None = None

    def __repr__(self) -> str:
        """One line: what the row has, long texts cut."""
        return f"Prediction({in_short(self.as_dict())})"

    def as_dict(self) -> dict[str, Any]:
        """The row without its absent fields."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in row.items()
            if value is not None
        }


def finite_or_error(row: Prediction) -> Prediction:
    """The row as it is; with `error` in the place of its answers, where a number of them is not finite."""
    numbers = [getattr(row, name) for name in DIMENSIONS]
    for shares in (row.probabilities or {}, *(row.classes or {}).values()):
        numbers += shares.values()
    if all(number is None or math.isfinite(number) for number in numbers):
        return row
    nothing: dict[str, Any] = dict.fromkeys(_ANSWERS)
    return replace(row, **nothing, error=NOT_FINITE)


def one_row_each(rows: Iterable[Prediction]) -> list[Prediction]:
    """Rows of several tasks as one row a clip, in the order in which the clips come first.

    Raises:
        PredictionsError: if rows of one id tell different things, so that they are not of one clip.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        new = row.as_dict()
        known = found.setdefault(row.id, {})
        for name in ("classes", "reference_classes"):
            if name in known and name in new:
                new[name] = {**known[name], **new[name]}
                known.pop(name)
        if odd := sorted(name for name in known.keys() & new.keys() if known[name] != new[name]):
            raise PredictionsError(
                f"two tasks have a clip {row.id!r}, with another {odd[0]} each ({known[odd[0]]!r}, "
                f"{new[odd[0]]!r}); ids must be unique over the corpora of all tasks"
            )
        known |= new
    return [Prediction(**fields) for fields in found.values()]


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Writes a predictions file; an older one is replaced at the end, never half."""
    atomic_write(path, "".join(as_lines(predictions)))


def as_lines(predictions: Iterable[Prediction]) -> Iterator[str]:
    """The lines of a predictions file."""
    return (json.dumps(p.as_dict(), ensure_ascii=False) + "\n" for p in predictions)


#: Characters of a value in the one line of an object.
_LONGEST = 60
_FIELDS = frozenset(field.name for field in fields(Prediction))
#: What no further class task can be called.
_TASKS = {"emotion", "transcript", "dimensions", *DIMENSIONS}
#: Fields that hold names of speakers and classes.
_NAMED = ("speaker", "emotion", "reference_emotion", "probabilities", "classes", "reference_classes")


def read_predictions(path: Path) -> list[Prediction]:
    """Reads a predictions file; unknown fields are passed over, so other systems may add their own.

    An id or a speaker that is a number is read as a string. UTF-16 with a byte order mark is read too, as
    Windows PowerShell writes it, with ends of lines of any system.

    Raises:
        PredictionsError: if there is no file or it is not UTF-8; naming file and line, where a row is not
            an object, has no id, repeats one, or holds a field of the wrong kind: probabilities that are
            none, a rating out of any scale, an id of several lines.
    """
    if not path.is_file():
        if path.exists() and not path.is_dir():
            raise PredictionsError(f"{path} is a pipe or device, not a file; to read standard input, give -")
        raise PredictionsError(f"no predictions file at {path}")
    return parse_predictions(path.read_bytes(), str(path))


def parse_predictions(content: bytes, name: str) -> list[Prediction]:
    """The rows of a predictions file; see `read_predictions`.

    Args:
        content: of the file.
        name: what messages call it.
    """
    try:
        text = content.decode(text_encoding(content))
    except UnicodeDecodeError as fault:
        raise PredictionsError(f"{name} is not UTF-8 text (byte {fault.start}); write it as UTF-8") from None
    if without_mark(text).lstrip()[:1] == "[":
        raise PredictionsError(
            f"{name} is a JSON list, and predictions are JSON lines; write one object a line"
        )
    return checked_rows(_objects(text, name), name)


def _objects(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """Where each line with content stands, and the JSON in it."""
    # Not splitlines: that also breaks at U+2028 and its like, which JSON allows inside a string.
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if line.strip():
            place = f"line {number}"
            where, advice = f"{name}, {place}", "one object a line is needed"
            # NaN passes here, so that a fault names the field that has it, and fields of others may hold it.
            yield place, parse_json(line, where, error=PredictionsError, advice=advice, nan=True)


def checked_rows(rows: Iterable[tuple[str, Any]], name: str) -> list[Prediction]:
    """Rows that were given as objects of any kind; see `read_predictions`.

    Args:
        rows: where each stands, e.g. "line 3", and what stands there: a mapping with the fields of a row.
        name: what messages call it.

    Raises:
        PredictionsError: see `read_predictions`.
    """
    predictions: list[Prediction] = []
    seen: dict[str, str] = {}
    for place, row in rows:
        found = _checked(row, f"{name}, {place}")
        if found.id in seen:
            raise PredictionsError(f"{name}, {place}: id {found.id!r} stands already in {seen[found.id]}")
        seen[found.id] = place
        predictions.append(found)
    if not predictions:
        raise PredictionsError(f"{name} holds no rows")
    return predictions


def _checked(row: Any, where: str) -> Prediction:
    if not isinstance(row, Mapping) or row.get("id") is None:
        raise PredictionsError(f'{where}: a row is an object with at least "id"; found {_short(row)}')
    known: dict[str, Any] = {
        name: str(value) if name in ("id", "speaker") and _is_number(value) else value
        for name, value in row.items()
        if name in _FIELDS and value is not None and not (name == "error" and value == "")
    }
    for field, value in known.items():
        if wanted := _fault(field, value):
            raise PredictionsError(f"{where}: {field!r} must be {wanted}; found {_short(value)}")
    named = {name: _composed(value) for name, value in known.items() if name in _NAMED}
    return Prediction(**{**known, **named})


def _composed(value: Any) -> Any:
    """Names of speakers and classes, alone or in mappings, in the form (NFC) in which they are compared."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        return {_composed(name): _composed(inner) for name, inner in value.items()}
    return value


def _texts_in(value: Any) -> Iterator[str]:
    """Names and values that are text, of mappings in mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from (*_texts_in(name), *_texts_in(inner))


def _fault(field: str, value: Any) -> str:
    """What a field must be, if its value is not."""
    if isinstance(value, dict) and not all(map(is_one_line, _texts_in(value))):
        return "of names of one line, without control characters"
    if field in _NAMED and not all(map(str.strip, _texts_in(value))):
        return "of names that are not empty; leave out what there is not"
    if field in ("classes", "reference_classes") and isinstance(value, dict) and (_TASKS & value.keys()):
        return (
            f"of other fields than {', '.join(sorted(_TASKS & value.keys()))}: those stand in the row itself"
        )
    if field == "probabilities":
        return _no_probabilities(value)
    if field == "classes":
        if not isinstance(value, dict):
            return f"an object of objects of {_PROBABILITIES}"
        wrong = next(
            (name for name, shares in value.items() if not shares or _no_probabilities(shares)), None
        )
        return "" if wrong is None else f"of each field ({wrong!r}) {_no_probabilities(value[wrong] or None)}"
    if field == "reference_classes":
        good = isinstance(value, dict) and all(isinstance(label, str) for label in value.values())
        return "" if good else "an object of strings"
    if field.removeprefix("reference_") in DIMENSIONS:
        good = _is_number(value) and abs(value) <= LARGEST_RATING
        return "" if good else f"a finite number, from {-LARGEST_RATING:,.0f} to {LARGEST_RATING:,.0f}"
    if field == "unsure":
        return "" if isinstance(value, bool) else "true or false"
    if not isinstance(value, str):
        return "a string"
    # An id stands in lists, messages and names of files.
    if field == "id" and not (value.strip() and is_one_line(value)):
        return "one line of text that is not empty, without control characters"
    return ""


#: Of Unix, Windows, and the Macs of old; none of them stands inside a string of JSON.
_LINE_END = re.compile(r"\r\n|\r|\n")
#: What a class answer is.
_PROBABILITIES = "probabilities: finite numbers from 0 to 1"


def _no_probabilities(value: Any) -> str:
    """What an answer over classes must be, if it is not."""
    if not isinstance(value, dict) or not all(map(_is_number, value.values())):
        return f"an object of {_PROBABILITIES}"
    return "" if all(0 <= share <= 1 for share in value.values()) else f"an object of {_PROBABILITIES}"


def sum_to_one(shares: Mapping[str, float]) -> bool:
    """Whether probabilities sum to 1, each perhaps rounded to two decimals.

    >>> sum_to_one({"a": 0.33, "b": 0.33, "c": 0.33}), sum_to_one({"a": 0.6, "b": 0.1})
    (True, False)
    """
    return abs(sum(shares.values()) - 1) <= min(0.05, 0.005 * len(shares) + 1e-9)


def _is_number(value: Any) -> bool:
    """Whether a value is a number, and none that JSON lacks."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def in_short(values: Mapping[str, Any]) -> str:
    """Fields of an object for its one line: those that are not None; of a long value its beginning.

    >>> in_short({"id": "a", "emotion": None, "transcript": "go " * 40})
    "id='a', transcript='go go go go go go go go go go go go go g..."
    """
    shown = {name: repr(value) for name, value in values.items() if value is not None}
    cut = {
        name: text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..." for name, text in shown.items()
    }
    return ", ".join(f"{name}={text}" for name, text in cut.items())
