"""Rows of a table's file, CSV, TSV or JSONL, each with the line on which it stands."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.documents import parse_json
from voxstrata.errors import CorpusError

SUFFIXES = (".jsonl", ".csv", ".tsv")

_UNCLOSED = (
    'a quotation mark opens a field here and {closes}; double it ("") where it belongs to the text, write '
    "a row on one line, or save the table as TSV, which has no quoting"
)


class RowError(Exception):
    """What is wrong with one row."""


#: Line, from 1 on, and the columns that are not empty, or what is wrong with the row.
Row = tuple[int, Mapping[str, Any] | RowError]


@dataclass(frozen=True)
class _Record:
    """A row of cells as it lies in the file.

    Args:
        line: its first one, from 1 on.
        cells: or what is wrong with them.
        lines: of the file that it takes.
    """

    line: int
    cells: list[str] | RowError
    lines: Sequence[str]


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a table, in order; a byte order mark and empty lines are passed over.

    TSV has no quoting: a quotation mark is a character as any other. CSV has it, read strictly.

    Raises:
        CorpusError: if it is not UTF-8, or its header tells no column `path` or one column twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _objects(file) if path.suffix.lower() == ".jsonl" else _cells(path, file)
    except UnicodeDecodeError:
        raise CorpusError(f"{path} is not UTF-8; save it as UTF-8") from None


def _objects(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # NaN stands for nothing in files of pandas and its like: who reads the row takes it as null.
            row = parse_json(
                line, "the row", error=CorpusError, advice="one object a line is needed", nan=True
            )
        except CorpusError as fault:
            yield number, RowError(str(fault))
            continue
        yield number, row if isinstance(row, dict) else RowError("not a JSON object")


def _cells(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    quoted = path.suffix.lower() == ".csv"
    records = _records(lines, quoted)
    header = _header(path, next(records, _Record(1, [], [])))
    for record in records:
        cells, last = record.cells, record.line + len(record.lines) - 1
        if isinstance(cells, RowError):
            yield record.line, cells
        elif any(len(next(csv.reader([line]), [])) == len(header) for line in record.lines[1:]):
            opened = _opened(record.lines)[0] or 0
            yield (
                record.line + opened,
                RowError(_UNCLOSED.format(closes=f"takes in what look like rows, up to line {last}")),
            )
        elif any(cell.strip() for cell in cells):
            if len(cells) != len(header):
                yield last, RowError(f"{len(cells)} fields where the header has {len(header)}")
                continue
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            yield last, {name: cell for name, cell in row.items() if cell}


def _header(path: Path, record: _Record) -> list[str]:
    if isinstance(record.cells, RowError):
        raise CorpusError(f"{path}, line {record.line}: {record.cells}")
    header = [name.strip() for name in record.cells]
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise CorpusError(f"{path}, line 1: column {', '.join(map(repr, repeated))} stands twice")
    if "path" not in header:
        wanted = "tabs" if path.suffix.lower() == ".tsv" else "commas"
        advice = f"; columns are parted by {wanted}" if len(header) == 1 and header[0] else ""
        raise CorpusError(
            f"{path}, line 1: a column 'path' is needed; found {', '.join(header) or 'nothing'}{advice}"
        )
    return header


def _records(lines: Iterable[str], quoted: bool) -> Iterator[_Record]:
    """Rows of cells; what follows a quotation mark that nothing closes is one wrong row."""
    taken: list[str] = []

    def noted() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    if quoted:
        reader = csv.reader(noted(), strict=True)
    else:
        reader = csv.reader(noted(), delimiter="\t", quoting=csv.QUOTE_NONE)
    while True:
        line = reader.line_num + 1
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:
            opened = _opened(taken)[-1] if quoted and taken else None
            if opened is not None:
                yield _Record(line + opened, RowError(_UNCLOSED.format(closes="none closes it")), taken)
                return
            yield _Record(line + len(taken) - 1, RowError(f"not a row of a table: {fault}"), list(taken))
        else:
            yield _Record(line, cells, list(taken))


def _opened(lines: Sequence[str]) -> list[int | None]:
    """Of each line of a CSV record, in which of them the quotation opened that its end does not close."""
    found: list[int | None] = []
    opened: int | None = None
    for number, line in enumerate(lines):
        before = ","
        for character in line:
            if character == '"' and opened is not None:
                # A doubled mark closes and opens again.
                opened = None
            elif character == '"' and before in ',"':
                opened = number
            before = character
        found.append(opened)
    return found
