"""JSON and YAML that may come from anywhere: read whole and plain, or refused with one line."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from json.scanner import make_scanner
from pathlib import Path
from typing import Any

import yaml

from voxstrata.errors import VoxstrataError

#: Bytes of the largest file that is read at once: index files of sharded models have some megabytes.
LARGEST_JSON = 1 << 28
#: Recipes have some kilobytes.
LARGEST_YAML = 1 << 20
#: Digits of the longest whole number: what a float can hold.
LONGEST_NUMBER = 308
_TOO_LARGE = 10**LONGEST_NUMBER
#: Values of the largest YAML document, with what aliases repeat.
MOST_VALUES = 1_000_000
#: Byte order marks; that of UTF-32 begins with one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_MERGE = "tag:yaml.org,2002:merge"

Error = type[VoxstrataError]


class _Refused(ValueError):
    """What stands in a document, and must not."""


class _Twice(_Refused):
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
    return parse_json(_bytes_of(path, LARGEST_JSON, error), str(path), error=error, advice=advice, nan=nan)


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
        text = text.decode(text_encoding(text)) if isinstance(text, bytes) else text.removeprefix("\ufeff")
        value = (_WITH_NAN if nan else _STRICT).decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{what} is not UTF-8 text (byte {fault.start}); {advice}") from None
    except _Twice as fault:
        raise error(f"{what}: {fault}; {advice}") from None
    except (ValueError, RecursionError) as fault:
        raise error(f"{what} is not JSON: {_reason(fault)}; {advice}") from None
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


def text_encoding(head: bytes) -> str:
    r"""The encoding of a text that begins so: by its byte order mark, else UTF-8.

    Windows PowerShell writes what `>` takes as UTF-16, and Excel its "Unicode text".

    >>> text_encoding(b"\xff\xfei\0d\0"), text_encoding(b"id")
    ('utf-16', 'utf-8-sig')
    """
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")


def read_yaml_file(path: Path, *, error: Error = VoxstrataError) -> Any:
    """The content of a YAML file.

    Raises:
        VoxstrataError: of type `error`; see `parse_yaml`.
    """
    return parse_yaml(_bytes_of(path, LARGEST_YAML, error), str(path), error=error)


def parse_yaml(text: str | bytes, what: str, *, error: Error = VoxstrataError) -> Any:
    """One YAML document of plain values, in which no key stands twice in a mapping.

    >>> parse_yaml("a: {b: 1, c: 2}", "an example")
    {'a': {'b': 1, 'c': 2}}

    Args:
        text: decoded, or UTF-8, or with a byte order mark as `text_encoding` knows them.
        what: the document's name, the begin of the error's line.
        error: what is raised.

    Raises:
        VoxstrataError: of type `error`, if the text is not UTF-8 or not YAML, a key stands twice in a
            mapping, a value cannot be of its type (a 32nd of May), or there are too many values.
    """
    try:
        text = text.decode(text_encoding(text)) if isinstance(text, bytes) else text
        value = yaml.load(text, Loader=_PlainLoader)
        for count, scalar in enumerate(_scalars(value)):
            if count >= MOST_VALUES:
                raise _Refused(f"it has more than {MOST_VALUES:,} values")
            if isinstance(scalar, str):
                scalar.encode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{what} is not UTF-8 text (byte {fault.start}); save it as UTF-8") from None
    except _Refused as fault:
        raise error(f"{what}: {fault}") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as fault:
        raise error(f"{what} is not YAML: {_reason(fault)}") from None
    return value


class _PlainLoader(yaml.SafeLoader):
    """Checks mappings as they are written, before the keys behind `<<` are laid below their own."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in mapping.value:
            # A key that is no scalar cannot be a key of a dict: the constructor refuses it.
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                raise _Refused(
                    f"the key {key.value!r} stands twice in one mapping, in line {lines[name]} and again in "
                    f"line {line}; keep one"
                )
            lines[name] = line
        return mapping


def _bytes_of(path: Path, largest: int, error: Error) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as fault:
        raise error(f"cannot read {path}: {fault.strerror or fault}") from None
    except ValueError as fault:
        raise error(f"cannot read {str(path)!r}: {fault}") from None
    if len(content) > largest:
        raise error(f"{path} is larger than {largest / 1e6:,.0f} MB, which no such file is; give another")
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise _Refused(f"a number has {len(digits):,} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if abs(value) == math.inf:
        raise _Refused(f"the number {digits[:20]} is too large")
    return value


def _no_constant(name: str) -> Any:
    raise _Refused(f"{name} is no JSON value, null is")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = sorted(key for key, _ in pairs)
        twice = next(name for name, following in pairwise(names) if name == following)
        raise _Twice(f"the key {twice[:80]!r} stands twice in one object; keep one")
    return found


# Made once: that takes as long as reading a line of some hundred characters.
_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole_number, parse_float=_number, parse_constant=_no_constant
)
_WITH_NAN = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole_number)
_QUICK = make_scanner(json.JSONDecoder(parse_float=_number, parse_constant=_no_constant))  # type: ignore[arg-type]
_DIGITS = re.compile(rb"\d{4}")


def _scalars(value: Any, depth: int = 0) -> Iterator[Any]:
    """What stands in a document, aliases followed each time."""
    if depth > 100:
        raise _Refused("it is nested more than 100 levels deep, or refers to itself")
    if isinstance(value, dict):
        for key, content in value.items():
            yield from _scalars(key, depth + 1)
            yield from _scalars(content, depth + 1)
    elif isinstance(value, list | tuple | set):
        # An empty list counts too.
        yield None
        for content in value:
            yield from _scalars(content, depth + 1)
    else:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _TOO_LARGE:
            raise _Refused(f"a number has more than {LONGEST_NUMBER} digits")
        yield value


def _reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    if isinstance(fault, UnicodeEncodeError):
        return "it holds half a character (a lone surrogate)"
    return " ".join(str(fault).split()).rstrip(".")


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
