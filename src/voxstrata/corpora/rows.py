"""Rows of a table's file, CSV, TSV or JSONL, each with the line on which it stands."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from voxstrata.corpora.table_files import opened_table
from voxstrata.documents import parse_json
from voxstrata.errors import CorpusError
from voxstrata.labels import DIMENSIONS

#: Column -> what it is called in a clip.
COLUMNS = {
    "path": "path", "id": "id", "speaker": "speaker", "split": "split",
    "emotion": "emotion", "label": "emotion",
    "votes": "votes", "emotion_votes": "votes", "emotion votes": "votes",
    "text": "text", "transcript": "text",
}  # fmt: skip
#: Columns of the votes for one class begin so.
VOTES = "votes:"
#: Columns that mean something: those of a clip, its stretch, and extras that others look for.
KNOWN = frozenset((*COLUMNS, "start", "offset", "end", "duration", "fold", "phonemes", *DIMENSIONS))
#: What may part the columns of a CSV file.
DELIMITERS = (",", ";", "\t")

_SAID = re.compile(r"sep=([,;\t])", re.IGNORECASE)
_PATHS = frozenset(
    ("audio", "audio_file", "audio_path", "audio_filepath", "audiofile", "file", "file_name", "file_path",
     "filename", "filepath", "recording", "wav", "wav_file", "wav_path")
)  # fmt: skip
_LINES_ADVICE = "as pandas does with to_json(orient='records', lines=True)"
_UNCLOSED = (
    'a quotation mark opens a field here and {closes}; double it ("") where it belongs to the text, write '
    "a row on one line, or save the table as TSV, which has no quoting"
)
_BEHIND_QUOTE = (
    "a quotation mark closes before its field ends: nothing may stand between it and the next field, no "
    'space either; double it ("") where it belongs to the text'
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


def rows_of(path: Path, needs: str = "path") -> Iterator[Row]:
    """The rows of a table, in order; empty lines are passed over.

    TSV has no quoting: a quotation mark is a character as any other. CSV has it, read strictly, also behind
    spaces; its columns are parted by what parts its header: commas, or the semicolons or tabs of some
    spreadsheets. Columns that mean something are known in capitals too, and with spaces around them
    (`column_name`); one without a name, as pandas writes for its index, is passed over.

    Args:
        path: of the table.
        needs: a column that its header must have.

    Raises:
        CorpusError: if it is no text, or its header lacks that column or tells one twice.
    """
    with opened_table(path) as file:
        yield from _objects(path, file) if path.suffix.lower() == ".jsonl" else _cells(path, file, needs)


def column_name(given: str) -> str:
    """The name of a column as it is known, or as it was given where it means nothing here.

    >>> [column_name(name) for name in (" Speaker", "Votes: Anger", "Room ")]
    ['speaker', 'votes:Anger', 'Room']
    """
    name = given.strip()
    small = name.casefold()
    if small.startswith(VOTES):
        return VOTES + name[len(VOTES) :].strip()
    return small if small in KNOWN else name


def column_fault(names: Iterable[str]) -> str:
    """What is wrong with the columns of a table, or of a row of JSONL, or ""."""
    given: dict[str, str] = {}
    for name in filter(str.strip, names):
        known = column_name(name)
        if known in given:
            spelled = f", as {given[known]!r} and {name!r}" if given[known] != name else ""
            return f"column {known!r} stands twice{spelled}; keep one"
        given[known] = name
    if VOTES in given:
        return f"column {given[VOTES]!r} names no class; call it {VOTES}NAME, as in {VOTES}anger"
    return ""


def _objects(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    beginning: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(beginning) < 2:
            beginning.append(line.strip())
            _require_json_lines(path, beginning)
        try:
            # NaN stands for nothing in files of pandas and its like: who reads the row takes it as null.
            row = parse_json(
                line, "the row", error=CorpusError, advice="one object a line is needed", nan=True
            )
        except CorpusError as fault:
            yield number, RowError(str(fault))
            continue
        if not isinstance(row, dict):
            yield number, RowError("not a JSON object")
        elif stated := column_fault(row):
            yield number, RowError(stated)
        else:
            yield number, {column_name(name): value for name, value in row.items() if name.strip()}


def _require_json_lines(path: Path, beginning: Sequence[str]) -> None:
    """Refuses a list, or an object over several lines, by the first lines."""
    listed = re.match(r"\[\s*({|$)", beginning[0]) is not None
    if listed or (beginning[0] == "{" and beginning[-1].startswith('"')):
        what = "a JSON list" if listed else "a JSON object over several lines"
        raise CorpusError(f"{path} is {what}, not JSON lines; write one object a line, {_LINES_ADVICE}")


def _cells(path: Path, lines: Iterable[str], needs: str) -> Iterator[Row]:
    quoted = path.suffix.lower() == ".csv"
    delimiter, skipped, lines = _parted(iter(lines)) if quoted else ("\t", 0, lines)
    records = _records(lines, delimiter, quoted, skipped)
    header = _header(path, next(records, _Record(1, [], [])), needs)
    for record in records:
        cells, last = record.cells, record.line + len(record.lines) - 1
        if isinstance(cells, RowError):
            yield record.line, cells
        elif any(
            len(next(_reader([line], delimiter, strict=False), [])) == len(header)
            for line in record.lines[1:]
        ):
            opened = _opened(record.lines, delimiter)[0] or 0
            yield (
                record.line + opened,
                RowError(_UNCLOSED.format(closes=f"takes in what look like rows, up to line {last}")),
            )
        elif any(cell.strip() for cell in cells):
            if len(cells) != len(header):
                yield last, RowError(f"{len(cells)} fields where the header has {len(header)}")
                continue
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            yield last, {name: cell for name, cell in row.items() if name and cell}


def _parted(lines: Iterator[str]) -> tuple[str, int, Iterator[str]]:
    """What parts the columns of a CSV file, how many lines only say so, and the lines from the header on."""
    first, skipped = next(lines, ""), 0
    if said := _SAID.fullmatch(first.rstrip("\r\n")):
        return said[1], 1, lines
    for delimiter in DELIMITERS:
        # A header that is broken is found as such with commas.
        with suppress(csv.Error):
            if "path" in map(column_name, next(_reader([first], delimiter, strict=False), [])):
                return delimiter, skipped, chain([first], lines)
    return ",", skipped, chain([first], lines)


def _header(path: Path, record: _Record, needs: str) -> list[str]:
    if isinstance(record.cells, RowError):
        raise CorpusError(f"{path}, line {record.line}: {record.cells}")
    header = [column_name(name) for name in record.cells]
    if fault := column_fault(record.cells):
        raise CorpusError(f"{path}, line {record.line}: {fault}")
    if needs not in header:
        wanted = "tabs" if path.suffix.lower() == ".tsv" else "commas"
        advice = f"; columns are parted by {wanted}" if len(header) == 1 and header[0] else ""
        found = ", ".join(filter(None, header)) or "nothing"
        raise CorpusError(
            f"{path}, line {record.line}: a column {needs!r} is needed; found {found}{advice}"
            f"{meant_path(header) if needs == 'path' else ''}"
        )
    return header


def meant_path(names: Iterable[str]) -> str:
    """Advice where a column has another name that tables give to the recording's file."""
    meant = [name for name in names if name.strip().casefold().replace(" ", "_") in _PATHS]
    return f"; if {meant[0]!r} names the recordings, call it 'path'" if meant else ""


def _records(lines: Iterable[str], delimiter: str, quoted: bool, skipped: int) -> Iterator[_Record]:
    """Rows of cells; what follows a quotation mark that nothing closes is one wrong row."""
    taken: list[str] = []

    def noted() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = _reader(noted(), delimiter, strict=True) if quoted else _unquoted(noted(), delimiter)
    while True:
        line = skipped + reader.line_num + 1
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:
            opened = _opened(taken, delimiter)[-1] if quoted and taken else None
            if opened is not None:
                yield _Record(line + opened, RowError(_UNCLOSED.format(closes="none closes it")), taken)
                return
            why = _BEHIND_QUOTE if "expected after" in str(fault) else f"not a row of a table: {fault}"
            yield _Record(line + len(taken) - 1, RowError(why), list(taken))
        else:
            yield _Record(line, cells, list(taken))


def _reader(lines: Iterable[str], delimiter: str, *, strict: bool) -> Any:
    """Cells of CSV; a quotation mark opens a field behind spaces too."""
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=True)


def _unquoted(lines: Iterable[str], delimiter: str) -> Any:
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def _opened(lines: Sequence[str], delimiter: str) -> list[int | None]:
    """Of each line of a CSV record, in which of them the quotation opened that its end does not close."""
    found: list[int | None] = []
    opened: int | None = None
    for number, line in enumerate(lines):
        before = delimiter
        for character in line:
            if character == '"' and opened is not None:
                # A doubled mark closes and opens again.
                opened = None
            elif character == '"' and before in (delimiter, '"'):
                opened = number
            # Spaces before a quotation mark do not count.
            before = before if character == " " and before == delimiter else character
        found.append(opened)
    return found
