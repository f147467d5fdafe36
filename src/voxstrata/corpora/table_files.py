"""What file a table lies in: text in an encoding that it tells, or something else, which is named."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from voxstrata.documents import text_encoding, without_mark
from voxstrata.errors import CorpusError

SUFFIXES = (".jsonl", ".csv", ".tsv")

_HEAD = 512
_EXPORT = "export the table from it as CSV (UTF-8)"
_UNPACK = "unpack it first"
#: Bytes at the beginning of what is often taken for a table, what it is, and what to do.
_OTHERS = (
    (b"PK\x03\x04", "a workbook (Excel, LibreOffice) or another zip archive", _EXPORT),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", _EXPORT),
    (b"PAR1", "a Parquet file", _EXPORT),
    (b"ARROW1", "an Arrow (Feather) file", _EXPORT),
    (b"FEA1", "a Feather file", _EXPORT),
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"SQLite format 3", "an SQLite database", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x1f\x8b", "packed by gzip", _UNPACK),
    (b"BZh", "packed by bzip2", _UNPACK),
    (b"\xfd7zXZ", "packed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"%PDF", "a PDF", _EXPORT),
    (b"RIFF", "a recording", "give the table that names it, in a column 'path'"),
)
_NO_FILES = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
_MARKUP = (b"<!doctype", b"<html", b"<?xml")


@contextmanager
def opened_table(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a table; UTF-8, or UTF-16 or UTF-32 with a byte order mark. Ends of lines stay.

    Raises:
        CorpusError: if it is no file (a pipe would be waited for), cannot be read, or is no text.
    """
    _require_file(path)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if stated := _other_than_text(head):
        raise CorpusError(f"{path} is {stated}")
    encoding = text_encoding(head)
    try:
        with path.open(encoding=encoding, newline="") as lines:
            yield chain([without_mark(next(lines, ""))], lines)
    except UnicodeError:
        name = encoding.removesuffix("-sig").upper()
        raise CorpusError(f"{path} is not {name}; save it as UTF-8 (in Excel: 'CSV UTF-8')") from None


def not_a_table(path: Path) -> str:
    """What a file with another suffix than a table's is, and what to do."""
    _require_file(path)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if stated := _other_than_text(head):
        return f"{path} is {stated}"
    if head.lstrip()[:1] in (b"{", b"["):
        return f"{path} is JSON; a table is JSON lines, one object a line, in a file called .jsonl"
    return (
        f"{path} is not called as a table; let its name end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    )


def _require_file(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = next((name for holds, name in _NO_FILES if holds(mode)), "a device")
        raise CorpusError(
            f"{path} is {what}, not a file; write the table into a file ({', '.join(SUFFIXES)})"
        )


def _other_than_text(head: bytes) -> str:
    """What a file is that begins so, and what to do; empty for text."""
    for magic, what, advice in _OTHERS:
        if head.startswith(magic):
            return f"{what}, not a table; {advice}"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_MARKUP):
        return f"a web page or XML, not a table; {_EXPORT}"
    if text_encoding(head) == "utf-8-sig" and head.count(0) > len(head) // 4:
        return "not UTF-8: it looks like UTF-16 without a byte order mark; save it as UTF-8"
    return ""
