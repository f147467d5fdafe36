"""What is wrong with values, in sentences for who gave them: of recipes, tables, and options from Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from voxstrata.errors import did_you_mean

Schema = Mapping[str, Any]
#: Keys, and numbers in lists, from the outside in.
Place = tuple[str | int, ...]

#: Characters of a value that are shown.
_SHOWN = 60
_LIST = "give a list, such as [a, b]"
_KEYS = "give keys with values, such as {path: prepared/mine, fold: 1}"
_NAMES = "give names with values, such as {asr: runs/asr, ser: runs/ser}"
_MISSING = "is missing; give it a value"
#: What a kind of fault wants, by how its name begins.
_WANTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_": lambda context: "a whole number is needed",
    "float_": lambda context: "a number is needed",
    "finite_": lambda context: "a finite number is needed",
    "bool_": lambda context: "true or false is needed",
    "string_pattern": lambda context: "a name of letters (A-Z, a-z), digits, spaces and . _ + - is needed",
    "string_too_short": lambda context: "a text that is not empty is needed",
    "string_": lambda context: "a text is needed",
    "path_": lambda context: "a path is needed",
    "tuple_": lambda context: _LIST,
    "list_": lambda context: _LIST,
    "dict_": lambda context: _NAMES,
    "model_": lambda context: _KEYS,
    "invalid_key": lambda context: "a key is a name; put one that is a number in quotes",
    "greater_than_equal": lambda context: f"at least {_figure(context['ge'])} is needed",
    "greater_than": lambda context: f"more than {_figure(context['gt'])} is needed",
    "less_than_equal": lambda context: f"at most {_figure(context['le'])} is allowed",
    "less_than": lambda context: f"less than {_figure(context['lt'])} is needed",
    "too_short": lambda context: f"{context['min_length']} or more are needed",
    "too_long": lambda context: f"no more than {context['max_length']} are allowed",
}


@dataclass(frozen=True)
class _Fault:
    """One fault that pydantic found.

    Args:
        place: of the value.
        tried: where a value may be of several kinds, the place of that choice and the kind that was tried.
        error: its type, input and context.
    """

    place: Place
    tried: tuple[Place, str] | None
    error: Mapping[str, Any]


def problems_in(fault: ValidationError, schema: Schema | None = None) -> list[str]:
    """A sentence for each fault, with its place before it.

    Args:
        fault: of a recipe, a table or options.
        schema: their JSON schema, for the keys that there are; of recipes that of all systems, by which the
            first place is the system.
    """
    whole = schema or {}
    found: dict[Place, list[str]] = defaultdict(list)
    spelled: set[Place] = set()
    for one in _of_likely_kind([_placed(error, whole) for error in fault.errors(include_url=False)]):
        if one.error["type"].startswith("union_tag"):
            found[("system",)].append(_unknown_system(one.error, whole))
        elif one.error["type"] == "extra_forbidden":
            meant = _meant(one, whole)
            found[one.place].append("there is no such key" + (f"; did you mean {meant}?" if meant else ""))
            spelled.add((*one.place[:-1], meant))
        else:
            found[one.place].append(_sentence(one.error))
    return [
        f"{_shown_place(place)}: {_in_one(sentences)}" if place else _in_one(sentences)
        for place, sentences in found.items()
        # A key that is spelled in another way is one fault, and not missing as well.
        if not (place in spelled and sentences == [_MISSING])
    ]


def shown(value: Any) -> str:
    """A value as it is shown in a sentence: whole, or its begin."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def _shown_place(place: Place) -> str:
    """A place as one writes it in Python.

    >>> _shown_place(("data", "corpora", 0, "path"))
    'data.corpora[0].path'
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).removeprefix(".")


def _figure(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _in_one(sentences: Sequence[str]) -> str:
    """Several sentences about one value: what was found once, and all that is allowed."""
    found, wanted = zip(*(sentence.rpartition("; ")[::2] for sentence in sentences), strict=True)
    if len(sentences) > 1 and len(set(found)) == 1:
        return f"{found[0]}; {'; or '.join(dict.fromkeys(wanted))}"
    return "; ".join(sentences)


def _sentence(error: Mapping[str, Any]) -> str:
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        # Of a pair the place is a number, of a mapping a key.
        if isinstance(error["loc"][-1], int):
            return f"found {shown(error['input'])}; one value more is needed"
        return _MISSING
    if kind == "string_type" and error["loc"][-1] == "[key]":
        return f"found the key {shown(error['input'])}; a key is a name: put one that is a number in quotes"
    if kind == "literal_error":
        allowed = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        return f"found {shown(error['input'])}; allowed: {allowed}" + did_you_mean(
            str(error["input"]), allowed.split(", ")
        )
    for begin, wanted in _WANTED.items():
        if kind.startswith(begin):
            return f"found {shown(error['input'])}; {wanted(context)}"
    return f"found {shown(error['input'])}, which is not allowed here"


def _unknown_system(error: Mapping[str, Any], whole: Schema) -> str:
    allowed = list(whole["discriminator"]["mapping"])
    given = error["input"].get("system") if isinstance(error["input"], Mapping) else None
    if given is None:
        return f"is missing; give one of {', '.join(allowed)}"
    return f"found {shown(given)}; allowed: {', '.join(allowed)}{did_you_mean(str(given), allowed)}"


def _placed(error: Mapping[str, Any], whole: Schema) -> _Fault:
    """An error with the keys that lead to its value, without pydantic's names of the kinds that it tried."""
    parts = error["loc"][1:] if "discriminator" in whole else error["loc"]
    here = [_root(error["loc"], whole)]
    place: Place = ()
    tried = None
    for number, part in enumerate(parts, start=1):
        kinds = [kind for schema in here for kind in _kinds(schema, whole)]
        if len(kinds) > len(here):
            here, tried = kinds, (place, str(part))
            continue
        below = [schema for kind in kinds if (schema := _below(kind, part)) is not None]
        if below or not whole or (number == len(parts) and error["type"] == "extra_forbidden"):
            here, place = below, (*place, part)
    return _Fault(place, tried, error)


def _of_likely_kind(faults: Sequence[_Fault]) -> Iterator[_Fault]:
    """The faults; where a value may be of several kinds, those of the kind that it comes nearest to."""
    nearest: dict[Place, dict[str, tuple[int, bool]]] = defaultdict(dict)
    for one in faults:
        if one.tried is not None:
            place, kind = one.tried
            # A number out of range is a number.
            near = len(one.place), one.error["type"].startswith(("greater_than", "less_than"))
            nearest[place][kind] = max(near, nearest[place].get(kind, near))
    for one in faults:
        kinds = {} if one.tried is None else nearest[one.tried[0]]
        if one.tried is None or kinds[one.tried[1]] == max(kinds.values()):
            yield one


def _meant(one: _Fault, whole: Schema) -> str:
    """The key that an unknown one may stand for: beside it, or of the same name elsewhere; or ""."""
    *parents, given = one.place
    root = _root(one.error["loc"], whole)
    here = _kinds(root, whole)
    for part in parents:
        below = [schema for kind in here if (schema := _below(kind, part)) is not None]
        here = [kind for schema in below for kind in _kinds(schema, whole)]
    beside = [str(key) for kind in here for key in kind.get("properties", {})]
    if close := get_close_matches(str(given), beside, n=1, cutoff=0.6):
        return close[0]
    paths = list(_paths(root, whole))
    near = get_close_matches(str(given), {str(path[-1]) for path in paths}, n=1, cutoff=0.85)
    return next((_shown_place(path) for path in paths if near and path[-1] == near[0]), "")


def _root(place: Sequence[Any], whole: Schema) -> Schema:
    """The schema of the whole: of recipes that of the system, which the first place names."""
    if "discriminator" not in whole:
        return whole
    system = whole["discriminator"]["mapping"].get(place[0]) if place else None
    return {} if system is None else {"$ref": system}


def _kinds(schema: Schema, whole: Schema) -> list[Schema]:
    """What a value may be, but for null: the schema itself, or those that it lets choose among."""
    while "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    options = [kind for one in schema.get("anyOf", ()) for kind in _kinds(one, whole)]
    return [kind for kind in options if kind.get("type") != "null"] or [schema]


def _below(schema: Schema, part: str | int) -> Schema | None:
    """What may stand behind a key, or at a number of a list; None where nothing can."""
    if isinstance(part, int):
        items = [*schema.get("prefixItems", ()), schema.get("items")]
        found = items[min(part, len(items) - 1)]
    else:
        others = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        found = schema.get("properties", {}).get(part, None if part == "[key]" else others[0])
    return {} if found is True else found or None


def _paths(schema: Schema, whole: Schema, above: Place = ()) -> Iterator[Place]:
    """The keys of a schema and of the mappings in it."""
    for kind in _kinds(schema, whole):
        for key, value in kind.get("properties", {}).items():
            yield (*above, key)
            yield from _paths(value, whole, (*above, key))
