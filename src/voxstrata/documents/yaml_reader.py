"""YAML of plain values: read whole, or refused with one line; and written so that it comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

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

#: Bytes of the largest file: recipes have some kilobytes.
LARGEST_YAML = 1 << 20
#: Values of the largest document, with what aliases repeat.
MOST_VALUES = 1_000_000
_TOO_LARGE = 10**LONGEST_NUMBER
_TAG = "tag:yaml.org,2002:"
#: What Python raises for values that are not what their tags say.
_UNFORESEEN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def read_yaml_file(path: Path, *, error: Error = VoxstrataError, advice: str = "") -> Any:
    """The content of a YAML file.

    Args:
        path: of the file.
        error: what is raised.
        advice: what to do about a file that cannot be read.

    Raises:
        VoxstrataError: of type `error`; see `parse_yaml`.
    """
    return parse_yaml(bytes_of(path, LARGEST_YAML, error, advice), str(path), error=error)


def parse_yaml(text: str | bytes, what: str, *, error: Error = VoxstrataError) -> Any:
    """One YAML document of plain values, in which no key stands twice in a mapping.

    Values without quotes mean what they do in YAML 1.2: 1e-3 is a number, yes and no, 2:30 and 2026-11-30 are
    texts, as 017 is seventeen. In whole numbers _ may part thousands.

    >>> parse_yaml("a: {b: 1e-3, c: no, d: 10_000}", "an example")
    {'a': {'b': 0.001, 'c': 'no', 'd': 10000}}

    Args:
        text: decoded, or UTF-8, or with a byte order mark as `text_encoding` knows them.
        what: the document's name, the begin of the error's line.
        error: what is raised.

    Raises:
        VoxstrataError: of type `error`, if the text is not UTF-8 or not YAML, a key stands twice in a
            mapping, a value is not of the kind that its tag says, or there are too many values.
    """
    try:
        value = yaml.load(decoded(text), Loader=_PlainLoader)
        for count, scalar in enumerate(_scalars(value)):
            if count >= MOST_VALUES:
                raise Refused(f"it has more than {MOST_VALUES:,} values")
            if isinstance(scalar, str):
                scalar.encode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{what} is not UTF-8 text (byte {fault.start}); save it as UTF-8") from None
    except Refused as fault:
        raise error(f"{what}: {fault}") from None
    except yaml.reader.ReaderError as fault:
        raise error(f"{what} is not YAML: it holds the character {chr(fault.character)!r}") from None
    except yaml.MarkedYAMLError as fault:
        raise error(f"{what} is not YAML{_place_and_problem(fault)}") from None
    except (yaml.YAMLError, *_UNFORESEEN) as fault:
        raise error(f"{what} is not YAML: {reason(fault)}") from None
    return value


def to_yaml(value: Any) -> str:
    r"""A YAML document that `parse_yaml` and readers of YAML 1.1 both read as the value.

    >>> to_yaml({"a": "1e5", "b": "no", "c": 1e-5})
    "a: '1e5'\nb: 'no'\nc: 1.0e-05\n"
    """
    return yaml.dump(value, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


#: What a value without quotes is, by YAML 1.2's core schema: tag, pattern, characters that it begins with.
_PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|[-+]?[1-9][0-9]{0,2}(_[0-9]{3})+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)


class _PlainLoader(yaml.SafeLoader):
    """Checks mappings as they are written, before the keys behind `<<` are laid below their own."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        # Of each mapping, with what << lays below it; and of all.
        self._pairs: dict[int, int] = {}
        self._all = 0

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        pairs = len(mapping.value)
        for key, value in mapping.value:
            if key.tag == f"{_TAG}merge" and not isinstance(value, yaml.ScalarNode):
                pairs += sum(self._pairs.get(id(one), 0) for one in (value, *value.value))
            # A key that is no scalar cannot be a key of a dict: the constructor refuses it.
            if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                raise Refused(
                    f"the key {key.value!r} stands twice in one mapping, in line {lines[name]} and again in "
                    f"line {line}; keep one"
                )
            lines[name] = line
        self._pairs[id(mapping)] = pairs
        self._all += pairs
        if self._all > MOST_VALUES:
            raise Refused(f"it has more than {MOST_VALUES:,} values")
        return mapping


class _PlainDumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than a text."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """A text; with line ends of Unicode, which other quotes fold into spaces, it is escaped."""
        ends = any(end in text for end in "\x85\u2028\u2029")
        return self.represent_scalar(f"{_TAG}str", text, style='"' if ends else None)


_PlainDumper.add_representer(str, _PlainDumper.represent_str)


def _yaml_number(loader: Any, node: Any) -> float:
    """A whole number, with 0x and 0o too, or another; infinite or none only where it says so."""
    text = loader.construct_scalar(node).replace("_", "").lower()
    try:
        if text[:2] in ("0x", "0o"):
            return int(text, 0)
        if text.lstrip("-+") in (".inf", ".nan"):
            return float(text.replace(".", ""))
        return whole_number(text) if node.tag.endswith("int") else number(text)
    except Refused:
        raise
    except ValueError:
        raise Refused(f"{text[:60]!r} is no number") from None


# In the place of what PyYAML takes from YAML 1.1: other numbers, yes and no, dates, sets.
_PlainLoader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _PLAIN:
    for _side in (_PlainLoader, _PlainDumper):
        _side.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)
_KEPT = {_TAG + name for name in ("null", "bool", "str", "seq", "map")} | {None}
_PlainLoader.yaml_constructors = {
    **{tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag in _KEPT},
    **dict.fromkeys((f"{_TAG}int", f"{_TAG}float"), _yaml_number),
    f"{_TAG}merge": lambda loader, node: node.value,
}

#: What PyYAML begins its sentences with, and what to do.
_ADVICE = (
    ("expected ',' or ']'", "a list that [ opens is not closed; add ]"),
    ("expected ',' or '}'", "a mapping that { opens is not closed; add }"),
    ("found unexpected end of stream", "a quotation mark is not closed; add one"),
    ("mapping values are not allowed", "a colon stands where none can; put a text with a colon in quotes"),
    ("could not find expected ':'", "a line has no colon; write `key: value`"),
    ("found undefined alias", "* begins a reference to nothing; put a text that begins with * in quotes"),
    ("could not determine a constructor", "a tag (!...) that is not known; leave it out, or use quotes"),
    ("found character", "a character that no value begins with, or a tab; use quotes, and spaces"),
    ("but found another document", "--- begins another document; keep one"),
    ("expected '<document start>'", "a text begins with %, or a line --- is missing; use quotes"),
    ("expected escape sequence", "a backslash that escapes nothing; use single quotes"),
    ("found unknown escape", "a backslash that escapes nothing; use single quotes"),
    ("expected a mapping or list", "<< takes a mapping, such as *name"),
    ("expected a mapping for", "<< takes a mapping, such as *name"),
    ("found unhashable key", "a list or mapping as a key; give a name"),
    ("expected <block end>", "a line is indented otherwise than those beside it; indent them alike"),
)


def _place_and_problem(fault: yaml.MarkedYAMLError) -> str:
    """Where a document stops being YAML, and what is wrong there."""
    mark, problem = fault.problem_mark or fault.context_mark, " ".join((fault.problem or "").split())
    advice = next((text for begin, text in _ADVICE if problem.startswith(begin)), problem)
    return f", line {mark.line + 1}, column {mark.column + 1}: {advice}" if mark else f": {advice}"


def _scalars(value: Any, depth: int = 0) -> Iterator[Any]:
    """What stands in a document, aliases followed each time."""
    if depth > 100:
        raise Refused("it is nested more than 100 levels deep, or refers to itself")
    if isinstance(value, dict):
        for key, content in value.items():
            yield from _scalars(key, depth + 1)
            yield from _scalars(content, depth + 1)
    elif isinstance(value, list):
        # An empty list counts too.
        yield None
        for content in value:
            yield from _scalars(content, depth + 1)
    else:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _TOO_LARGE:
            raise Refused(f"a number has more than {LONGEST_NUMBER} digits")
        yield value
