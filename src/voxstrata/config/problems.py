"""What is wrong with a recipe's values, in sentences for its author."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

#: Characters of a value that are shown.
_SHOWN = 60
_LIST = "give a list, such as [a, b]"
_KEYS = "give keys with values, such as {path: prepared/mine, fold: 1}"
_NAMES = "give names with values, such as {asr: runs/asr, ser: runs/ser}"
#: What a kind of fault wants, by how its name begins.
_WANTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_": lambda context: "a whole number is needed",
    "float_": lambda context: "a number is needed",
    "finite_": lambda context: "a finite number is needed",
    "bool_": lambda context: "true or false is needed",
    "string_pattern": lambda context: "a name of letters, digits, spaces and . _ + - is needed",
    "string_": lambda context: "a text is needed",
    "tuple_": lambda context: _LIST,
    "list_": lambda context: _LIST,
    "dict_": lambda context: _NAMES,
    "model_": lambda context: _KEYS,
    "greater_than_equal": lambda context: f"at least {_figure(context['ge'])} is needed",
    "greater_than": lambda context: f"more than {_figure(context['gt'])} is needed",
    "less_than_equal": lambda context: f"at most {_figure(context['le'])} is allowed",
    "less_than": lambda context: f"less than {_figure(context['lt'])} is needed",
    "too_short": lambda context: f"{context['min_length']} or more are needed",
    "too_long": lambda context: f"no more than {context['max_length']} are allowed",
}


def problems_in(fault: ValidationError, schema: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each fault, with the place in the recipe before it.

    Args:
        fault: of a recipe whose first place is its system.
        schema: JSON schema of all recipes, for the names of keys that there are.
    """
    for error in fault.errors(include_url=False):
        place = ".".join(str(part) for part in error["loc"][1:])
        if error["type"].startswith("union_tag"):
            yield f"system: {_unknown_system(error, schema)}"
        elif error["type"] == "extra_forbidden":
            yield f"{place}: there is no such key{_meant(error['loc'], schema)}"
        else:
            yield f"{place or 'recipe'}: {_sentence(error)}"


def problems_of(fault: ValidationError) -> list[str]:
    """A sentence for each fault of what is no recipe, with its place before it.

    Args:
        fault: of a group of options, or of a table.
    """
    found = []
    for error in fault.errors(include_url=False):
        place = ".".join(str(part) for part in error["loc"])
        told = "there is no such key" if error["type"] == "extra_forbidden" else _sentence(error)
        found.append(f"{place}: {told}" if place else told)
    return found


def _figure(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def shown(value: Any) -> str:
    """A value as it is shown in a sentence: whole, or its begin."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def _sentence(error: Mapping[str, Any]) -> str:
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        # Of a pair the place is a number, of a mapping a key.
        if isinstance(error["loc"][-1], int):
            return f"found {shown(error['input'])}; one value more is needed"
        return "is missing; give it a value"
    if kind == "literal_error":
        allowed = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        close = get_close_matches(str(error["input"]), allowed.split(", "), n=1)
        return f"found {shown(error['input'])}; allowed: {allowed}" + _did_you_mean(close)
    for begin, wanted in _WANTED.items():
        if kind.startswith(begin):
            return f"found {shown(error['input'])}; {wanted(context)}"
    return f"found {shown(error['input'])}, which is not allowed here"


def _unknown_system(error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    allowed = list(schema["discriminator"]["mapping"])
    given = error["input"].get("system") if isinstance(error["input"], Mapping) else None
    if given is None:
        return f"is missing; give one of {', '.join(allowed)}"
    return f"found {shown(given)}; allowed: {', '.join(allowed)}" + _did_you_mean(
        get_close_matches(str(given), allowed, n=1)
    )


def _did_you_mean(close: Sequence[str]) -> str:
    return f"; did you mean {close[0]}?" if close else ""


def _meant(place: Sequence[Any], schema: Mapping[str, Any]) -> str:
    """The key that an unknown one may stand for: beside it, or of the same name elsewhere in the recipe."""
    system, *parents, given = map(str, place)
    keys = list(_paths(_resolved({"$ref": schema["discriminator"]["mapping"][system]}, schema), schema))
    beside = [path[-1] for path in keys if path[:-1] == tuple(parents)]
    if close := get_close_matches(given, beside, n=1, cutoff=0.7):
        return _did_you_mean(close)
    names = {path[-1] for path in keys}
    near = get_close_matches(given, names, n=1, cutoff=0.85)
    return _did_you_mean([".".join(path) for path in keys if near and path[-1] == near[0]])


def _paths(
    schema: Mapping[str, Any], whole: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The keys of a schema and of the mappings in it."""
    for key, value in schema.get("properties", {}).items():
        yield (*above, key)
        yield from _paths(_resolved(value, whole), whole, (*above, key))


def _resolved(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema
