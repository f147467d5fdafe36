"""What is wrong with a recipe's values, in sentences for its author."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

#: Kind of fault -> what to give in its place.
_WANTED = {
    "tuple_type": "give a list, such as [a, b]",
    "dict_type": "give names with values, such as {a: 1, b: 2}",
    "model_type": "give keys with values, such as {a: 1, b: 2}",
}


def problems_in(fault: ValidationError, schema: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each fault, with the place in the recipe before it.

    Args:
        fault: of a recipe whose first place is its system.
        schema: JSON schema of all recipes, for the names of keys that there are.
    """
    names = _names(schema)
    for error in fault.errors():
        place = ".".join(str(part) for part in error["loc"][1:]) or "recipe"
        yield f"{place}: {_sentence(error, names)}"


def _sentence(error: Mapping[str, Any], names: set[str]) -> str:
    kind, message = error["type"], str(error["msg"])
    if kind == "extra_forbidden":
        meant = get_close_matches(str(error["loc"][-1]), names - {str(error["loc"][-1])}, n=1, cutoff=0.75)
        return "there is no such key" + (f"; did you mean {meant[0]}?" if meant else "")
    if kind in _WANTED:
        return f"found {error['input']!r}; {_WANTED[kind]}"
    return message.removeprefix("Value error, ")


def _names(schema: Any) -> set[str]:
    """All keys of the recipes' mappings."""
    if isinstance(schema, list):
        return set().union(*map(_names, schema), set())
    if not isinstance(schema, Mapping):
        return set()
    return set().union(schema.get("properties", {}), *map(_names, schema.values()))
