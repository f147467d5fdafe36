"""Any corpus as a table: CSV, TSV or JSONL with one row a clip."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.errors import CorpusError

#: Column -> what it is called in a clip. `votes:NAME` columns come beside these; all others are extras.
COLUMNS = {
    "path": "path", "id": "id", "speaker": "speaker", "split": "split",
    "emotion": "emotion", "label": "emotion",
    "votes": "votes", "emotion_votes": "votes", "emotion votes": "votes",
    "text": "text", "transcript": "text",
}  # fmt: skip
SPLIT_NAMES = {
    "train": "train", "training": "train", "dev": "dev", "development": "dev", "valid": "dev",
    "validation": "dev", "val": "dev", "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip

SUFFIXES = (".jsonl", ".csv", ".tsv")
_SHOWN_FAULTS = 20


class _RowError(Exception):
    """What is wrong with one row."""


def read(table: Path) -> list[Clip]:
    """Reads a table, or the one table in a folder.

    Columns: `path` (relative to the table, or absolute), and as present `id`, `emotion`, `votes` (a JSON
    object; or columns `votes:NAME`), `text` or `transcript`, `speaker`, `split`. Other columns become
    extras. Ids and speakers get the table's name in front ("calls/0001", "calls-ann") unless they begin
    with it. Without an id, the path without its suffix is the id; without a column `split`, all is train.

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
    if place.is_file() and place.suffix.lower() in SUFFIXES:
        return place.resolve()
    found = sorted(p for p in place.glob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("._"))
    if len(found) != 1:
        what = ", ".join(path.name for path in found) if found else "none"
        raise CorpusError(
            f"need one table ({', '.join(SUFFIXES)}) at {place}; found {what}; give the file itself"
        )
    return found[0].resolve()


def read_table(path: Path, *, prefix: str) -> list[Clip]:
    """Reads a table whose ids and speakers shall begin with `prefix`.

    Raises:
        CorpusError: naming every line that cannot be read, or if there is no row.
    """
    if not path.is_file():
        raise CorpusError(f"no table at {path}")
    rows = _jsonl_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)
    clips: list[Clip] = []
    faults: list[str] = []
    try:
        for line, row in rows:
            try:
                if isinstance(row, _RowError):
                    raise row
                clips.append(_clip(row, path.parent.resolve(), prefix))
            except _RowError as fault:
                faults.append(f"line {line}: {fault}")
    except csv.Error as fault:
        raise CorpusError(f"{path} is not a table: {fault}") from None
    except UnicodeDecodeError:
        raise CorpusError(f"{path} is not UTF-8; save it as UTF-8") from None
    if faults:
        more = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise CorpusError(f"{path}: {'; '.join(faults[:_SHOWN_FAULTS])}{more}")
    if not clips:
        raise CorpusError(f"{path} holds no rows")
    # A row that lacks the split which others have keeps none, to be found as a fault.
    return clips if any(clip.split for clip in clips) else [replace(clip, split="train") for clip in clips]


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | _RowError]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as fault:
                yield number, _RowError(f"not JSON ({fault.msg})")
                continue
            yield number, row if isinstance(row, dict) else _RowError("not a JSON object")


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | _RowError]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        header = [name.strip() for name in next(reader, [])]
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise CorpusError(f"{path}, line 1: column {', '.join(map(repr, repeated))} stands twice")
        if "path" not in header:
            raise CorpusError(
                f"{path}, line 1: a column 'path' is needed; found {', '.join(header) or 'nothing'}"
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                yield reader.line_num, _RowError(f"{len(cells)} fields where the header has {len(header)}")
                continue
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            yield reader.line_num, {name: cell for name, cell in row.items() if cell}


def _clip(row: Mapping[str, Any], folder: Path, prefix: str) -> Clip:
    known: dict[str, Any] = {}
    votes: dict[str, float] = {}
    extras: dict[str, str] = {}
    for name, value in row.items():
        if value is None:
            continue
        if name.startswith("votes:"):
            votes[name.removeprefix("votes:")] = _vote(name, value)
        elif name in COLUMNS:
            if COLUMNS[name] in known:
                raise _RowError(f"two columns give the {COLUMNS[name]}, one of them {name!r}")
            known[COLUMNS[name]] = value
        else:
            extras[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    votes |= _votes(known.pop("votes", {}))
    texts = {name: _text(name, value) for name, value in known.items()}
    if not texts.get("path"):
        raise _RowError("no path")
    relative = PurePosixPath(texts["path"].replace("\\", "/"))
    if not relative.name:
        raise _RowError(f"path {texts['path']!r} names no file")
    identity = texts.get("id") or str(relative.with_suffix("")).lstrip("/")
    split = texts.get("split", "")
    speaker = texts.get("speaker")
    return Clip(
        id=identity if identity.startswith(f"{prefix}/") else f"{prefix}/{identity}",
        path=folder / relative,
        speaker=speaker and (speaker if speaker.startswith(f"{prefix}-") else f"{prefix}-{speaker}"),
        split=SPLIT_NAMES.get(split.lower(), split),
        emotion=texts.get("emotion") or None,
        votes={name: votes[name] for name in sorted(votes) if votes[name]},
        text=normalize_transcript(texts.get("text", "")),
        extras=extras,
    )


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _RowError(f"{name} must be a string; found {value!r}")


def _votes(value: Any) -> dict[str, float]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise _RowError(f'votes must be a JSON object like {{"anger": 2}}; found {value!r}') from None
    if not isinstance(value, dict):
        raise _RowError(f'votes must be a JSON object like {{"anger": 2}}; found {value!r}')
    return {name: _vote(name, count) for name, count in value.items()}


def _vote(name: str, value: Any) -> float:
    try:
        count = float(value)
    except (TypeError, ValueError):
        count = math.nan
    if not (math.isfinite(count) and count >= 0) or isinstance(value, bool):
        raise _RowError(f"the votes of {name!r} must be a number from 0 on; found {value!r}")
    return count
