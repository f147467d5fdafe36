"""Predictions files: one JSON object a line. Evaluation reads nothing else, so any system can be scored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from voxstrata.errors import PredictionsError
from voxstrata.labels import DIMENSIONS
from voxstrata.runs import atomic_write


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
        error: why there is no answer; what was known before (path, speaker, references) stays.
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
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The row without its absent fields."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in row.items()
            if value is not None
        }


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


def read_predictions(path: Path) -> list[Prediction]:
    """Reads a predictions file; unknown fields are passed over, so other systems may add their own.

    An id or a speaker that is a number is read as a string.

    Raises:
        PredictionsError: if there is no file or it is not UTF-8; naming file and line, where a row is not
            an object, has no id, repeats one, or holds a field of the wrong kind.
    """
    if not path.is_file():
        raise PredictionsError(f"no predictions file at {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise PredictionsError(f"{path} is not UTF-8 text (byte {fault.start}); write it as UTF-8") from None
    names = {field.name for field in fields(Prediction)}
    predictions: list[Prediction] = []
    seen: dict[str, int] = {}
    # Not splitlines: that also breaks at U+2028 and its like, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as fault:
            raise PredictionsError(f"{where}: not JSON ({fault.msg}); one object a line is needed") from None
        if not isinstance(row, dict) or row.get("id") is None:
            raise PredictionsError(f'{where}: a row is an object with at least "id"; found {line[:80]!r}')
        known: dict[str, Any] = {
            name: str(value) if name in ("id", "speaker") and _is_number(value) else value
            for name, value in row.items()
            if name in names and value is not None
        }
        _check_kinds(known, where)
        if known["id"] in seen:
            raise PredictionsError(f"{where}: id {known['id']!r} stands already in line {seen[known['id']]}")
        seen[known["id"]] = number
        predictions.append(Prediction(**known))
    if not predictions:
        raise PredictionsError(f"{path} holds no rows")
    return predictions


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_probabilities(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_number, value.values()))


def _check_kinds(row: dict[str, Any], where: str) -> None:
    for name, value in row.items():
        if name == "probabilities":
            good = isinstance(value, dict) and all(map(_is_number, value.values()))
            wanted = "an object of numbers"
        elif name == "classes":
            good = isinstance(value, dict) and all(map(_are_probabilities, value.values()))
            wanted = "an object of objects of numbers"
        elif name == "reference_classes":
            good = isinstance(value, dict) and all(isinstance(label, str) for label in value.values())
            wanted = "an object of strings"
        elif name.removeprefix("reference_") in DIMENSIONS:
            good, wanted = _is_number(value) and math.isfinite(value), "a finite number"
        else:
            good, wanted = isinstance(value, str), "a string"
        if not good:
            raise PredictionsError(f"{where}: {name!r} must be {wanted}; found {value!r}")
