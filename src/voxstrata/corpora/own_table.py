"""Any corpus as a table: CSV, TSV or JSONL with one row a clip."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import commonpath, normpath
from pathlib import Path, PurePosixPath
from typing import Any

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.rows import COLUMNS, VOTES, RowError, meant_path, rows_of
from voxstrata.corpora.stretches import stretch_name, stretch_of
from voxstrata.corpora.table_files import SUFFIXES, not_a_table
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.documents import as_number, parse_json
from voxstrata.errors import CorpusError
from voxstrata.labels import is_one_line

SPLIT_NAMES = {
    "train": "train", "training": "train", "dev": "dev", "development": "dev", "valid": "dev",
    "validation": "dev", "val": "dev", "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip

#: Suffixes of files that hold tables, and are read by none of these rules.
_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".arrow")
_SHOWN_FAULTS = 20
_SHOWN_TABLES = 5
_URL = re.compile(r"(?i)(https?|ftp|s3|gs|hf|file)://")
#: Written in the place of a value that is not known.
_NOTHING = ("nan", "NaN", "NA", "N/A", "#N/A", "<NA>", "null", "NULL", "None")
#: The id of a clip with an absolute path outside the table's folder, until all of those are known.
_ELSEWHERE = ""
_DRIVE = re.compile(r"[A-Za-z]:")


def read(table: Path) -> list[Clip]:
    """Reads a table, or the one table in a folder.

    Columns: `path` (relative to the table, or absolute), and as present `id`, `emotion`, `votes` (a JSON
    object; or columns `votes:NAME`), `text` or `transcript`, `speaker`, `split`, and `start` and `end` or
    `offset` and `duration` (seconds: the clip is that stretch of its file). Other columns become extras.
    Names of columns may have capitals and spaces around them.
    NaN in JSONL is as null. Ids and speakers get the table's name in front ("calls/0001",
    "calls-ann") unless they begin with it. Without an id, the path without its suffix and without `..` is
    the id: relative to the table's folder, or of absolute paths outside it to the folder that they share;
    without a column `split`, all is train.

    Raises:
        CorpusError: naming every line that cannot be read, or if there is no table or no row in it.
    """
    path = find_table(table)
    return read_table(path, prefix=path.stem)


def find_table(place: Path) -> Path:
    """The table itself, or the only one in a folder.

    Raises:
        CorpusError: if there is none, or more than one.
    """
    if not place.exists():
        raise CorpusError(f"no table at {place}; give its file, or the folder that holds it")
    if not place.is_dir():
        if place.suffix.lower() not in SUFFIXES:
            raise CorpusError(not_a_table(place))
        return place.resolve()
    found = sorted(p for p in place.glob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("._"))
    if len(found) != 1:
        what = ", ".join(path.name for path in found[:_SHOWN_TABLES]) or "none"
        what += f" and {len(found) - _SHOWN_TABLES} more" if len(found) > _SHOWN_TABLES else ""
        others = sorted(path.name for path in place.glob("*") if path.suffix.lower() in _SPREADSHEETS)
        what += f", beside {', '.join(others)}: export the table as CSV" if others and not found else ""
        raise CorpusError(
            f"need one table ({', '.join(SUFFIXES)}) at {place}; found {what}; give the file itself"
        )
    return found[0].resolve()


def read_table(path: Path, *, prefix: str) -> list[Clip]:
    """Reads a table whose ids and speakers shall begin with `prefix`.

    Raises:
        CorpusError: naming every line that cannot be read, or if there is no row.
    """
    if not path.exists():
        raise CorpusError(f"no table at {path}")
    clips: list[Clip] = []
    elsewhere: list[int] = []
    faults: list[str] = []
    for line, row in rows_of(path):
        try:
            if isinstance(row, RowError):
                raise row
            clips.append(_clip(row, path.parent.resolve(), prefix))
            if clips[-1].id == _ELSEWHERE:
                elsewhere.append(len(clips) - 1)
        except RowError as fault:
            faults.append(f"line {line}: {fault}")
    if faults:
        more = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise CorpusError(f"{path}: {'; '.join(faults[:_SHOWN_FAULTS])}{more}")
    if not clips:
        raise CorpusError(f"{path} holds no rows")
    _name_by_shared_folder(clips, elsewhere, prefix)
    # A row that lacks the split which others have keeps none, to be found as a fault.
    return clips if any(clip.split for clip in clips) else [replace(clip, split="train") for clip in clips]


def _clip(row: Mapping[str, Any], folder: Path, prefix: str) -> Clip:
    known: dict[str, Any] = {}
    votes: dict[str, float] = {}
    extras: dict[str, str] = {}
    columns, start_s, end_s = stretch_of(row)
    for name, value in columns.items():
        if value is None or _is_nan(value):
            continue
        if name.startswith(VOTES):
            votes[name.removeprefix(VOTES)] = _vote(name, value)
        elif name in COLUMNS:
            if COLUMNS[name] in known:
                raise RowError(f"two columns give the {COLUMNS[name]}, one of them {name!r}")
            known[COLUMNS[name]] = value
        else:
            extras[name] = value if isinstance(value, str) else _as_json(name, value)
    told_votes = _votes(known.pop("votes", {}))
    if votes and told_votes:
        raise RowError(f"votes stand in 'votes' and in {VOTES + next(iter(votes))!r}; give them in one way")
    votes |= told_votes
    texts = {name: _text(name, value) for name, value in known.items() if not _is_missing(name, value)}
    if not texts.get("path"):
        raise RowError(f"no path{meant_path(row)}")
    if _URL.match(texts["path"]):
        raise RowError(f"path {texts['path']!r} is a URL; download it, and give the file's path")
    relative = PurePosixPath(texts["path"].replace("\\", "/"))
    if not relative.name:
        raise RowError(f"path {texts['path']!r} names no file")
    inside = _inside(relative, folder)
    identity = texts.get("id")
    if not identity and inside is not None:
        identity = _plain(inside) + stretch_name(start_s, end_s)
    split = texts.get("split", "")
    speaker = texts.get("speaker")
    return Clip(
        id=_prefixed(identity, prefix) if identity else _ELSEWHERE,
        path=folder / relative,
        speaker=speaker and (speaker if speaker.startswith(f"{prefix}-") else f"{prefix}-{speaker}"),
        split=SPLIT_NAMES.get(split.lower(), split),
        emotion=texts.get("emotion") or None,
        votes={name: votes[name] for name in sorted(votes) if votes[name]},
        text=normalize_transcript(texts.get("text", "")),
        extras=extras,
        start_s=start_s,
        end_s=end_s,
    )


def _inside(path: PurePosixPath, folder: Path) -> PurePosixPath | None:
    """A path relative to the table's folder; None for one that is absolute and lies elsewhere."""
    if not path.is_absolute() and not _DRIVE.fullmatch(path.parts[0]):
        return path
    for place in (Path(normpath(path)), Path(path.parent).resolve() / path.name):
        if place.is_relative_to(folder):
            return PurePosixPath(place.relative_to(folder).as_posix())
    return None


def _name_by_shared_folder(clips: list[Clip], elsewhere: Sequence[int], prefix: str) -> None:
    """Gives clips with absolute paths their ids: what lies below the folder that all of them share.

    So a table has the same ids wherever its recordings were put.
    """
    if not elsewhere:
        return
    shared = commonpath([normpath(clips[index].path.parent) for index in elsewhere])
    for index in elsewhere:
        clip = clips[index]
        inside = PurePosixPath(Path(normpath(clip.path)).relative_to(shared).as_posix())
        identity = _plain(inside) + stretch_name(clip.start_s, clip.end_s)
        clips[index] = replace(clip, id=_prefixed(identity, prefix))


def _prefixed(identity: str, prefix: str) -> str:
    return identity if identity.startswith(f"{prefix}/") else f"{prefix}/{identity}"


def _plain(path: PurePosixPath) -> str:
    """A path without its suffix and without what leads out of the folder, as an id."""
    parts = path.with_suffix("").parts
    return "/".join(part for part in parts if part not in ("/", "..") and not _DRIVE.fullmatch(part))


def _text(name: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        raise RowError(f"{name} must be a string; found {value!r}")
    if name != "text" and not is_one_line(value.strip()):
        raise RowError(f"{name} must be one line without control characters; found {value!r}")
    return value.strip()


def _is_missing(name: str, value: Any) -> bool:
    """Whether a cell is what R, pandas and spreadsheets write for nothing."""
    return name in ("emotion", "speaker", "split") and isinstance(value, str) and value.strip() in _NOTHING


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _as_json(name: str, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise RowError(f"{name} holds NaN or an infinite number; write null; found {value!r}") from None


def _votes(value: Any) -> dict[str, float]:
    if isinstance(value, str):
        try:
            value = parse_json(value, "votes", error=CorpusError)
        except CorpusError:
            raise RowError(f'votes must be a JSON object like {{"anger": 2}}; found {value!r}') from None
    if not isinstance(value, dict):
        raise RowError(f'votes must be a JSON object like {{"anger": 2}}; found {value!r}')
    if not all(name.strip() for name in value):
        raise RowError(f'votes name no class; give an object like {{"anger": 2}}; found {value!r}')
    return {name: _vote(name, count) for name, count in value.items()}


def _vote(name: str, value: Any) -> float:
    count = as_number(value)
    if not (math.isfinite(count) and count >= 0):
        raise RowError(f"the votes of {name!r} must be a number from 0 on; found {value!r}")
    return count
