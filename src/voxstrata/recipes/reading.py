"""Recipes from YAML files, packaged names and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from voxstrata.errors import RecipeError
from voxstrata.recipes.schema.any_recipe import RECIPE, AnyRecipe
from voxstrata.recipes.unique_keys import DuplicateKeyError, load_unique

#: Folder of the recipes at the scale of the paper.
PAPER = "paper"


def packaged(folder: str = "") -> dict[str, Path]:
    """Packaged recipes (or tables: `folder="tables"`) by name; those of the paper are named `paper/NAME`."""
    root = Path(str(files("voxstrata.recipes"))) / folder
    found = {path.stem: path for path in sorted(root.glob("*.yaml"))}
    paper = {} if folder else {f"{PAPER}/{path.stem}": path for path in sorted(root.glob(f"{PAPER}/*.yaml"))}
    return found | paper


def read_yaml(source: str | Path, folder: str = "") -> dict[str, Any]:
    """A YAML mapping from a file, or a packaged one by its name.

    Raises:
        RecipeError: if there is neither, it is not a mapping, or a key stands twice in one of its mappings.
    """
    known = packaged(folder)
    path = known.get(str(source), Path(source))
    if not path.is_file():
        raise RecipeError(f"no recipe {str(source)!r}: neither a file nor one of {', '.join(known)}")
    try:
        content = load_unique(path.read_text(encoding="utf-8"))
    except DuplicateKeyError as fault:
        raise RecipeError(f"{path}: {fault}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(fault).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold a mapping of keys to values")
    return content


def merged_values(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other; what is no mapping is replaced.

    >>> merged_values({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = (
            merged_values(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
        )
    return result


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`a.b=value` (value read as YAML) as nested mappings.

    >>> parse_overrides(["training.steps=10", "vectors={asr: x}"])
    {'training': {'steps': 10}, 'vectors': {'asr': 'x'}}

    Raises:
        RecipeError: for an override without "=", or whose value is not YAML or has a key twice.
    """
    result: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {override!r} is not of the form key=value, e.g. training.epochs=3")
        try:
            value: Any = load_unique(text)
        except DuplicateKeyError as fault:
            raise RecipeError(f"{override!r}: {fault}") from None
        except yaml.YAMLError as fault:
            raise RecipeError(f"{override!r} is not YAML: {' '.join(str(fault).split())}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merged_values(result, value)
    return result


def validate(values: Mapping[str, Any], where: str) -> AnyRecipe:
    """A recipe from plain values.

    Raises:
        RecipeError: naming every key at fault and what is allowed, in one message.
    """
    try:
        return RECIPE.validate_python(values)
    except ValidationError as fault:
        problems = [
            f"{'.'.join(str(part) for part in error['loc'][1:]) or 'recipe'}: {error['msg']}"
            for error in fault.errors()
        ]
        raise RecipeError(f"{where}: " + "; ".join(problems)) from None


def read_recipe(source: str | Path, overrides: Iterable[str] = ()) -> AnyRecipe:
    """A recipe from a file or a packaged name, with overrides laid over it.

    Raises:
        RecipeError: see `read_yaml`, `parse_overrides` and `validate`.
    """
    values = merged_values(read_yaml(source), parse_overrides(overrides))
    return validate(values, str(source))


def dump(recipe: AnyRecipe) -> str:
    """The resolved recipe as YAML; reading it again gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
