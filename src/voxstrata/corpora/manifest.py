"""What a prepared corpus holds on disk, held against its form: a fault in it is one line."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from voxstrata.corpora.clip import ROUNDING_S, SPLITS
from voxstrata.corpora.summary import ALL
from voxstrata.documents import parse_json, quick_json, read_json_object
from voxstrata.errors import CorpusError
from voxstrata.labels import is_one_line

ADVICE = "make it with `voxstrata corpus prepare` again"
#: Seconds of the longest recording: more than a year.
_LONGEST_S = 4e7
#: Characters of the longest line, a cut: transcripts are pages at most.
_LONGEST_LINE = 1 << 24
#: Bytes that are unpacked at a time: gzip's own file object reads line by line at twice the cost.
_BUFFER = 1 << 17
#: What is known of a clip beside speaker and transcript, and read as text.
_TEXTS = ("emotion", "phonemes")
#: Types that JSON has, as sets of them are looked up most quickly.
_STRINGS, _WORDS = frozenset({str}), frozenset({str, type(None)})
_NUMBERS, _NESTED = frozenset({int, float}), frozenset({dict, list})


def read_about(path: Path, version: int) -> dict[str, Any]:
    """What `corpus.json` tells, with all keys that a corpus has.

    Args:
        path: of the file.
        version: the format that is read.

    Raises:
        CorpusError: naming what is not as it should be.
    """
    about = read_json_object(path, error=CorpusError, advice=ADVICE)
    found = about.get("format_version")
    if "format_version" in about and (found != version or isinstance(found, bool)):
        raise CorpusError(f"{path.parent} has format {found!r}, this is format {version}; {ADVICE}")
    about = {"notes": [], "options": {}, "maps": []} | about
    for key, (wanted, holds) in _ABOUT.items():
        if not holds(about.get(key)):
            found = f"it is {_short(about[key])}" if key in about else "it is missing"
            raise CorpusError(f"{path} cannot be read: {key!r} must be {wanted}, and {found}; {ADVICE}")
    return about


def read_rows(path: Path, summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of `cuts.jsonl.gz`, one at a time, each as lhotse writes a cut.

    Args:
        path: of the file.
        summary: split -> what `corpus.json` counts, with `clips`.

    Raises:
        CorpusError: naming the line that is no cut of a prepared corpus; at the end, if there are other
            clips than are known.
    """
    counts: Counter[str] = Counter()
    for number, line in enumerate(_lines(path), start=1):
        quick = quick_json(line)
        if quick is None or (fault := _fault(quick[0])) or _keys(quick[0]) != quick[1]:
            where = f"{path}, line {number}"
            row = parse_json(line, where, error=CorpusError, advice=ADVICE)
            if fault := _fault(row):
                raise CorpusError(f"{where}: {fault}; {ADVICE}")
        else:
            row = quick[0]
        counts[row["custom"]["split"]] += 1
        yield row
    stated = {split: summary[split].clips for split in (*SPLITS, ALL) if split in summary}
    counts[ALL] = counts.total()
    if stated != {split: clips for split, clips in counts.items() if clips}:
        raise CorpusError(
            f"{path} holds {_counts(counts)}, and corpus.json beside it has {_counts(stated)}; {ADVICE}"
        )


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as packed, io.BufferedReader(packed, _BUFFER) as file:
            while line := file.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:
                    raise CorpusError(f"{path} has a line that no clip needs; {ADVICE}")
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise CorpusError(f"{path} cannot be unpacked ({fault}); {ADVICE}") from None


def _keys(row: dict[str, Any]) -> int:
    """How many keys a row without fault has, in the objects that all rows have."""
    supervision, recording = row["supervisions"][0], row["recording"]
    known, source = supervision["custom"], recording["sources"][0]
    stated = len(known) + len(known.get("votes") or ())
    return len(row) + len(supervision) + stated + len(recording) + len(source) + len(row["custom"])


def _fault(row: Any) -> str:
    """What is wrong with a row, or ""; written to be quick, for all rows of a corpus pass here."""
    try:
        (supervision,), recording, about = row["supervisions"], row["recording"], row["custom"]
        (source,), known = recording["sources"], supervision["custom"]
        split, start_s, duration_s, file = about["split"], row["start"], row["duration"], source["source"]
        rate, samples, length_s = recording["sampling_rate"], recording["num_samples"], recording["duration"]
        names = (row["id"], supervision["id"], recording["id"])
        words = (
            supervision.get("speaker"),
            supervision.get("text"),
            known.get("emotion"),
            known.get("phonemes"),
        )
        votes = known.get("votes") or {}
        shares, nested = votes.values(), _NESTED.intersection(map(type, known.values()))
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        stated = f"{fault} is missing" if isinstance(fault, KeyError) else "parts of it are of another kind"
        return f"no cut of a prepared corpus ({stated})"
    if not (_STRINGS.issuperset(map(type, names)) and all(names)):
        return "an id is no text"
    if not _is_name(file):
        return f"the file {_short(file)} is no name in one line"
    if not _WORDS.issuperset(map(type, words)):
        return "a speaker, a text, an emotion or phonemes are no text"
    if nested and any(type(value) in _NESTED for name, value in known.items() if name != "votes"):
        return "a further column of a clip is no text"
    if not _NUMBERS.issuperset(map(type, shares)) or min(shares, default=0) < 0:
        return f"votes must be numbers from 0 on; found {_short(votes)}"
    if split not in SPLITS:
        return f"the split is {_short(split)}; there are {', '.join(SPLITS)}"
    if not (_is_count(rate) and _is_count(samples) and type(length_s) in _NUMBERS):
        return "the recording's rate, samples and seconds must be numbers"
    if not 0 < length_s <= _LONGEST_S or abs(samples / rate - length_s) > ROUNDING_S:
        return f"a recording of {samples} samples at {rate} Hz does not last {_short(length_s)} s"
    if not (
        type(start_s) in _NUMBERS and type(duration_s) in _NUMBERS and _inside(start_s, duration_s, length_s)
    ):
        return f"start and duration are {_short((start_s, duration_s))}, and the recording lasts {length_s} s"
    return ""


def _inside(start_s: float, duration_s: float, length_s: float) -> bool:
    return start_s >= 0 and duration_s > 0 and start_s + duration_s <= length_s + ROUNDING_S


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**62


def _is_clips(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_name(value: Any) -> bool:
    return type(value) is str and bool(value) and is_one_line(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _object_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _is_label_list(value: Any) -> bool:
    return _list_of(_is_name)(value) and len(set(value)) == len(value)


def _is_split_counts(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != _SPLIT_COUNTS.keys():
        return False
    return all(holds(value[name]) for name, holds in _SPLIT_COUNTS.items())


def _is_summary(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"splits", "emotions", "speakers"}:
        return False
    splits = value["splits"]
    named = isinstance(splits, dict) and ALL in splits and splits.keys() <= {*SPLITS, ALL}
    return (
        named
        and all(map(_is_split_counts, splits.values()))
        and _object_of(_object_of(_is_clips))(value["emotions"])
        and _object_of(_is_clips)(value["speakers"])
    )


_SPLIT_COUNTS: Mapping[str, Callable[[Any], bool]] = {
    "clips": _is_clips,
    "duration_min": lambda value: _is_number(value) and value >= 0,
    "speakers": _is_clips,
    "with_emotion": _is_clips,
    "with_text": _is_clips,
}
#: Key -> what it must be, and whether a value is.
_ABOUT: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "format_version": ("a number", _is_clips),
    "name": ("a name in one line", _is_name),
    "labels": ("a list of distinct names", _is_label_list),
    "folds": ("a list of lists of speakers", _list_of(_list_of(_is_text))),
    "fingerprint": ("a hash", _is_name),
    "cuts_sha256": ("a hash", _is_name),
    "summary": ("the counts of splits, emotions and speakers", _is_summary),
    "left_out": ("a list of lines", _list_of(_is_text)),
    "notes": ("a list of lines", _list_of(_is_text)),
    "options": ("an object of texts", _object_of(_is_text)),
    "maps": ("a list of names", _list_of(_is_text)),
}


def _counts(clips: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{split} {clips[split]:,}" for split in (*SPLITS, ALL) if clips.get(split)) or "no clips"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
