"""What readers of JSON and YAML share: encodings, limits, and how numbers are read."""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path
from typing import Any

from voxstrata.errors import VoxstrataError

#: How a number is written, where a text stands for one.
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
#: Digits of the longest whole number: what a float can hold.
LONGEST_NUMBER = 308
#: Byte order marks; that of UTF-32 begins with one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip

Error = type[VoxstrataError]


class Refused(ValueError):
    """What stands in a document, and must not."""


def text_encoding(head: bytes) -> str:
    r"""The encoding of a text that begins so: by its byte order mark, else UTF-8.

    Windows PowerShell writes what `>` takes as UTF-16, and Excel its "Unicode text".

    >>> text_encoding(b"\xff\xfei\0d\0"), text_encoding(b"id")
    ('utf-16', 'utf-8-sig')
    """
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")


def without_mark(text: str) -> str:
    r"""A text without the byte order marks before it: programs that do not know them put a second one there.

    >>> without_mark("\ufeff\ufeffid")
    'id'
    """
    return text.lstrip("\ufeff")


def decoded(content: str | bytes) -> str:
    """A text as it is, or UTF-8, or in the encoding that its byte order mark tells; without the mark.

    Raises:
        UnicodeDecodeError: if it is not in that encoding.
    """
    return without_mark(content.decode(text_encoding(content)) if isinstance(content, bytes) else content)


def bytes_of(path: Path, largest: int, error: Error, advice: str = "") -> bytes:
    """The content of a file.

    Args:
        path: of the file.
        largest: bytes that it may have.
        error: what is raised.
        advice: what to do about a file that cannot be read.

    Raises:
        VoxstrataError: of type `error`, if it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as fault:
        behind = f"; {advice}" if advice else ""
        raise error(f"cannot read {path}: {fault.strerror or fault}{behind}") from None
    except ValueError as fault:
        raise error(f"cannot read {str(path)!r}: {fault}") from None
    if len(content) > largest:
        raise error(f"{path} is larger than {largest / 1e6:,.0f} MB, which no such file is; give another")
    return content


def as_number(value: Any) -> float:
    """A number, or a text that holds one as a person writes it; NaN for anything else, true and false too.

    Python would read 1_0 as ten, and digits of any script.

    >>> as_number(" 1.5e3 "), as_number("1_0"), as_number(True), as_number("inf")
    (1500.0, nan, nan, nan)
    """
    written = isinstance(value, str) and NUMBER.fullmatch(value.strip())
    if isinstance(value, bool) or not (written or isinstance(value, int | float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def whole_number(digits: str) -> int:
    """A whole number of some decimal digits, perhaps with a sign.

    Raises:
        Refused: if no float holds it.
    """
    if len(digits) > LONGEST_NUMBER:
        raise Refused(f"a number has {len(digits):,} digits")
    return int(digits)


def number(digits: str) -> float:
    """A number as it is written.

    Raises:
        Refused: if no float holds it.
    """
    value = float(digits)
    if abs(value) == math.inf:
        raise Refused(f"the number {digits[:20]} is too large")
    return value


def reason(fault: Exception) -> str:
    """In a line, why a document cannot be read."""
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    if isinstance(fault, UnicodeEncodeError):
        return "it holds half a character (a lone surrogate)"
    return " ".join(str(fault).split()).rstrip(".")
