"""JSON: read whole and plain, or refused with one line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from json.scanner import make_scanner
from pathlib import Path
from typing import Any

from voxstrata.documents.text import (
    LONGEST_NUMBER,
    Error,
    Refused,
    bytes_of,
    decoded,
    number,
    reason,
    whole_number,
)
from voxstrata.errors import VoxstrataError

#: Bytes of the largest file that is read at once: index files of sharded models have some megabytes.
LARGEST_JSON = 1 << 28


class _Twice(Refused):
    """A key that stands twice in one object: JSON, but nobody can tell which value is meant."""


def read_json(
    path: Path, *, error: Error = VoxstrataError, advice: str = "write or fetch it again", nan: bool = False
) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        error: what is raised.
        advice: what to do next, the end of the error's line.
        nan: whether NaN and infinite numbers, which are not JSON, are taken.

    Raises:
        VoxstrataError: of type `error`; see `parse_json`.
    """
    return parse_json(bytes_of(path, LARGEST_JSON, error), str(path), error=error, advice=advice, nan=nan)


def read_json_object(
    path: Path, *, error: Error = VoxstrataError, advice: str = "write or fetch it again", nan: bool = False
) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
        VoxstrataError: of type `error`; see `parse_json`; also if it holds no object.
    """
    content = read_json(path, error=error, advice=advice, nan=nan)
    if not isinstance(content, dict):
        raise error(f"{path} must hold a JSON object and holds {_kind(content)}; {advice}")
    return content


def parse_json(
    text: str | bytes,
    what: str,
    *,
    error: Error = VoxstrataError,
    advice: str = "write it again",
    nan: bool = False,
) -> Any:
    r"""One JSON value.

    >>> parse_json('{"a": [1, 2.5]}', "an example")
    {'a': [1, 2.5]}
    >>> parse_json('{"a": NaN}', "an example")
    Traceback (most recent call last):
    ...
    voxstrata.errors.VoxstrataError: an example is not JSON: NaN is no JSON value, null is; write it again

    Args:
        text: decoded, or UTF-8, or with a byte order mark as `text_encoding` knows them.
        what: the document's name, the begin of the error's line.
        error: what is raised.
        advice: what to do next, the end of the error's line.
        nan: whether NaN and infinite numbers, which are not JSON, are taken.

    Raises:
        VoxstrataError: of type `error`, if the text is not UTF-8 or not JSON, is nested too deeply, has a key
            twice in one object, a number that no float holds, or half a character (a lone surrogate).
    """
    try:
        text = decoded(text)
        value = (_WITH_NAN if nan else _STRICT).decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{what} is not UTF-8 text (byte {fault.start}); {advice}") from None
    except _Twice as fault:
        raise error(f"{what}: {fault}; {advice}") from None
    except (ValueError, RecursionError) as fault:
        raise error(f"{what} is not JSON: {reason(fault)}; {advice}") from None
    return value


def quick_json(line: bytes) -> tuple[Any, int] | None:
    """One JSON value on one line of many, read in half the time of `parse_json`, which has the last word.

    No look is taken at keys that stand twice. Who knows the value's form counts its keys: where they are as
    many as the colons, no key can stand twice.

    >>> quick_json(b'{"a": [1, 2.5]}'), quick_json(b'{"a": 1, "a": 2}'), quick_json(b'{"a": NaN}')
    (({'a': [1, 2.5]}, 1), ({'a': 2}, 2), None)

    Args:
        line: UTF-8, with or without its end.

    Returns:
        The value and the colons of the line; None where only `parse_json` can tell what is there.
    """
    # Of a number that is too long, four characters among every 77th are digits.
    if (b"\\" in line and b"\\u" in line) or _DIGITS.search(line[:: LONGEST_NUMBER // 4]):
        return None
    try:
        text = line.decode("utf-8")
        value, end = _QUICK(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return None
    return None if text[end:].strip(" \t\r\n") else (value, line.count(b":"))


def _no_constant(name: str) -> Any:
    raise Refused(f"{name} is no JSON value, null is")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = sorted(key for key, _ in pairs)
        twice = next(name for name, following in pairwise(names) if name == following)
        raise _Twice(f"the key {twice[:80]!r} stands twice in one object; keep one")
    return found


# Made once: that takes as long as reading a line of some hundred characters.
_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=whole_number, parse_float=number, parse_constant=_no_constant
)
_WITH_NAN = json.JSONDecoder(object_pairs_hook=_object, parse_int=whole_number)
_QUICK = make_scanner(json.JSONDecoder(parse_float=number, parse_constant=_no_constant))  # type: ignore[arg-type]
_DIGITS = re.compile(rb"\d{4}")


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
