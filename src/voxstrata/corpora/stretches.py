"""Which stretch of a recording a row of a table is: `start` and `end`, or `offset` and `duration`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from voxstrata.corpora.clip import ROUNDING_S
from voxstrata.corpora.rows import RowError
from voxstrata.documents import as_number

#: Columns that tell where a clip starts in its file.
_STARTS = ("start", "offset")
#: More than a year: no recording.
_LONGEST_S = 4e7
_COLUMNS = (*_STARTS, "end", "duration")


def stretch_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], float, float | None]:
    """The row without what tells its stretch, the start, and the end (None: of the file).

    `duration` alone, as in many lists of whole files, tells no stretch and stays.

    >>> stretch_of({"path": "a.wav", "offset": "1.5", "duration": 2})
    ({'path': 'a.wav'}, 1.5, 3.5)

    Args:
        row: column -> value; times as numbers or texts.

    Raises:
        RowError: if a time is no number of seconds from 0 on, the end is not behind the start, or columns
            contradict each other.
    """
    stated = {name: row[name] for name in _COLUMNS if not _is_empty(row.get(name))}
    if not stated.keys() - {"duration"}:
        return dict(row), 0.0, None
    seconds = {name: _seconds(name, value) for name, value in stated.items()}
    starts = {seconds[name] for name in _STARTS if name in seconds}
    if len(starts) > 1:
        raise RowError(f"start {stated['start']} and offset {stated['offset']} differ; give one")
    start = max(starts, default=0.0)
    end = seconds.get("end")
    if "duration" in seconds:
        by_duration = start + seconds["duration"]
        if end is not None and abs(end - by_duration) > ROUNDING_S:
            raise RowError(f"end {end:g} s is not start and duration ({by_duration:g} s); give one of them")
        end = by_duration if end is None else end
    if end is not None and end <= start:
        raise RowError(
            f"a stretch from {start:g} to {end:g} s holds nothing; its end must be behind its start"
        )
    return {name: value for name, value in row.items() if name not in _COLUMNS}, start, end


def stretch_name(start_s: float, end_s: float | None) -> str:
    """What tells clips of one file apart in their ids, in milliseconds.

    >>> stretch_name(1.5, 3.25), stretch_name(0, None)
    ('-0001500-0003250', '')
    """
    if not start_s and end_s is None:
        return ""
    end = "end" if end_s is None else f"{round(1000 * end_s):07d}"
    return f"-{round(1000 * start_s):07d}-{end}"


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _seconds(name: str, value: Any) -> float:
    seconds = as_number(value)
    if not 0 <= seconds < _LONGEST_S:
        raise RowError(f"{name} must be seconds from 0 on, as in 12.5; found {repr(value)[:40]}")
    return seconds
