"""What a file of answers has already: whole rows are kept, what a kill left of the last one is cut off.

Beside it lies a record of the model and the options that answered, so that others are refused.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Bytes that are looked at, at once, for the end of a file.
_STEP = 1 << 16
#: How the first line of each format begins.
_BEGINS = {"json": b'{"id": ', "csv": b"path,", "rttm": b"SPEAKER "}


@dataclass(frozen=True)
class Kept:
    """What is kept of a file.

    Args:
        done: the recordings that are answered in it: ids, in a table paths, in RTTM names of files.
        failed: how many of them failed.
        columns: of a table.
        whole: bytes that are kept; what stands behind them is torn.
    """

    done: frozenset[str] = frozenset()
    failed: int = 0
    columns: Sequence[str] | None = None
    whole: int = 0


def kept(path: Path, kind: str, timed: bool) -> Kept:
    """Reads what is whole.

    Where a recording has several lines it is not known whether all of the last one were written: they count
    as torn as well.

    Args:
        path: of the file.
        kind: "json", "csv" or "rttm".
        timed: a table has a row for each segment.

    Raises:
        PredictionsError: if the file holds something else.
    """
    if not path.exists() or not path.stat().st_size:
        return Kept()
    whole = _end_of_last_line(path)
    if not whole:
        # A first line that is torn is our own where it begins as all of them do.
        with path.open("rb") as file:
            head = file.read(len(_BEGINS[kind]))
        if not _BEGINS[kind].startswith(head):
            raise _other(path, "no line in it is whole")
        return Kept()
    if kind == "json":
        return _of_json(path, whole)
    return _of_csv(path, whole, timed) if kind == "csv" else _of_rttm(path, whole)


def require_same_answers(out: Path, asked: Mapping[str, str], *, started: bool) -> str | None:
    """Refuses to go on with the answers of another model or of other options; records what is asked.

    Args:
        out: the file of answers, or the folder of subtitles.
        asked: fingerprint of the models as "model", their name as "named", and each option as it is typed.
        started: whether answers are there already.

    Returns:
        A line for the user where answers are there and no record of what they were made with.

    Raises:
        PredictionsError: naming what differs.
    """
    from voxstrata.documents import read_json_object
    from voxstrata.errors import PredictionsError
    from voxstrata.runs import write_json

    out = out.resolve()
    if out.exists() and not (out.is_file() or out.is_dir()):
        # A device or a pipe, which nothing is kept of.
        return None
    record = out.with_name(f".{out.name}.made-with.json")
    if not started or not record.is_file():
        write_json(record, dict(asked))
        return f"{out} does not tell which model answered in it; it is gone on with" if started else None
    before = read_json_object(record, error=PredictionsError, advice=f"remove it, or {out.name}")
    if before.get("model") != asked["model"]:
        found = f"was answered by another model ({before.get('named')}) than {asked['named']}"
    else:
        options = [name for name in asked if name != "named" and before.get(name) != asked[name]]
        if not options:
            return None
        found = f"was answered with {options[0]} {before.get(options[0])}, and not {asked[options[0]]}"
    raise PredictionsError(f"{out} {found}; name another place with --out, or remove it to answer anew")


def _end_of_last_line(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _STEP)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
    return 0


def _of_json(path: Path, whole: int) -> Kept:
    from voxstrata.errors import PredictionsError
    from voxstrata.predictions import parse_predictions

    try:
        rows = parse_predictions(path.read_bytes()[:whole], str(path))
    except PredictionsError as fault:
        raise _other(path, str(fault)) from None
    failed = sum(row.error is not None for row in rows)
    return Kept(frozenset(row.id for row in rows), failed, whole=whole)


def _of_csv(path: Path, whole: int, timed: bool) -> Kept:
    from voxstrata.inference.printed import first_columns

    first = first_columns(timed)
    columns: list[str] = []
    places: dict[str, int] = {}
    failed = set()
    place = 0
    for line in _lines(path, whole):
        (cells,) = csv.reader([line.decode("utf-8")]) or [[]]
        if not columns:
            columns = cells
            if columns[: len(first)] != first or columns[-1] != "error":
                raise _other(
                    path, f"its columns are not those of this table ({', '.join(first)}, ..., error)"
                )
        elif len(cells) != len(columns):
            raise _other(path, f"a row has {len(cells)} cells and there are {len(columns)} columns")
        else:
            places.setdefault(cells[0], place)
            failed |= {cells[0]} if cells[-1] else set()
        place += len(line)
    if timed and places:
        last, whole = places.popitem()
        failed.discard(last)
    return Kept(frozenset(places), len(failed), columns or None, whole)


def _of_rttm(path: Path, whole: int) -> Kept:
    places: dict[str, int] = {}
    place = 0
    for line in _lines(path, whole):
        cells = line.decode("utf-8").split()
        if len(cells) != 10 or cells[0] != "SPEAKER":
            raise _other(path, f"{line.decode('utf-8').strip()[:60]!r} is no speaker turn")
        places.setdefault(cells[1], place)
        place += len(line)
    if places:
        _, whole = places.popitem()
    return Kept(frozenset(places), whole=whole)


def _lines(path: Path, whole: int) -> list[bytes]:
    return path.read_bytes()[:whole].splitlines(keepends=True)


def _other(path: Path, why: str) -> Exception:
    from voxstrata.errors import PredictionsError

    return PredictionsError(
        f"{path} is there and cannot be gone on with: {why}; name another file, or remove it"
    )
