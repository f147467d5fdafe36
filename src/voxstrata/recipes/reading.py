"""Recipes from YAML files, packaged names and `key=value` overrides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter, ValidationError

from voxstrata.config.problems import problems_in
from voxstrata.config.recipe import Recipe
from voxstrata.documents import parse_yaml, read_yaml_file, to_yaml
from voxstrata.errors import RecipeError, did_you_mean
from voxstrata.methods.registry import methods
from voxstrata.recipes.defaults import FIT, KEY, UNKNOWN, Notify, defaults_of, kind_of, line_on
from voxstrata.runs import RunFolder

#: What messages call a recipe that is a mapping.
GIVEN = "the recipe"
#: Folder of the recipes at the scale of the paper.
PAPER = "paper"
#: Folder of the packaged tables.
TABLES = "tables"
#: What a recipe that leaves values to `defaults: fit` states in their place where a table builds on it.
IN_TABLES = "in_tables"


def packaged(folder: str = "") -> dict[str, Path]:
    """Packaged recipes (or tables: `folder="tables"`) by name; those of the paper are named `paper/NAME`."""
    root = Path(str(files("voxstrata.recipes"))) / folder
    found = {path.stem: path for path in sorted(root.glob("*.yaml"))}
    paper = {} if folder else {f"{PAPER}/{path.stem}": path for path in sorted(root.glob(f"{PAPER}/*.yaml"))}
    return found | paper


def read_yaml(source: str | Path, folder: str = "") -> dict[str, Any]:
    """A YAML mapping from a file, or a packaged one by its name.

    Of a recipe with `in_tables` it is what a table lays its settings over: values that hang on nothing else.

    Raises:
        RecipeError: if there is neither, it is not a mapping, or a key stands twice in one of its mappings.
    """
    content = _content(source, folder)
    if not isinstance(stated := content.get(IN_TABLES), dict):
        return content
    return merged_values(_without(content, KEY, IN_TABLES), stated)


def _content(source: str | Path, folder: str = "") -> dict[str, Any]:
    known = packaged(folder)
    path = known.get(str(source), Path(source))
    if not path.is_file():
        kind = "table" if folder == TABLES else "recipe"
        near = did_you_mean(str(source), known)
        raise RecipeError(
            f"no {kind} {str(source)!r}{near}; give a file, or one of {', '.join(sorted(known))}"
        )
    content = read_yaml_file(path, error=RecipeError)
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
        RecipeError: for an override without "=" or a name, or whose value is not YAML or has a key twice.
    """
    result: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise RecipeError(f"override {override!r} is not of the form key=value, e.g. training.epochs=3")
        value = parse_yaml(text, repr(override), error=RecipeError)
        result = merged_values(result, nested({key: value}))
    return result


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _with_corpora(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with corpora that are named by their folders alone (`data.corpora=a`) as mappings."""
    found = dict(values)
    if "data" in values:
        found["data"] = _with_paths(values["data"])
    if isinstance(tasks := values.get("tasks"), Mapping):
        found["tasks"] = {name: _with_paths(task) for name, task in tasks.items()}
    return found


def _with_paths(holder: Any) -> Any:
    """What has a key `corpora`, with folders as mappings."""
    if not isinstance(holder, Mapping) or not isinstance(holder.get("corpora"), str | Mapping | list | tuple):
        return holder
    given = holder["corpora"]
    uses = given if isinstance(given, list | tuple) else [given]
    return {**holder, "corpora": [{"path": use} if isinstance(use, str) else use for use in uses]}


def validate(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from plain values.

    Raises:
        RecipeError: naming every key at fault and what is allowed, in one message.
    """
    if KEY in values:
        raise RecipeError(
            f"{where}: {KEY} is of a recipe that is trained alone; in a table state rates, head and warm-up, "
            f"or give the recipe a key {IN_TABLES} that does"
        )
    recipes = _schema(tuple(method.recipe for method in methods().values()))
    try:
        return recipes.validate_python(_with_corpora(values))
    except ValidationError as fault:
        raise RecipeError(f"{where}: " + "; ".join(problems_in(fault, recipes.json_schema()))) from None


@cache
def _schema(recipes: tuple[type[Recipe], ...]) -> TypeAdapter[Recipe]:
    """All recipes, of which the key `system` chooses."""
    every: Any = Annotated[Union[recipes], Field(discriminator="system")]  # noqa: UP007
    return TypeAdapter(every)


def read_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    download: bool = False,
    notify: Notify | None = None,
) -> Recipe:
    """A recipe from a file, a packaged name or plain values, with overrides laid over it.

    With `defaults: fit` what all of them leave out is what fits the base (see `recipes.defaults`).

    Args:
        source: file, packaged name, or the recipe's values.
        overrides: `KEY=VALUE`, later ones over earlier.
        values: laid over all that; a key may name a place below, as in "training.epochs".
        download: whether a base that nothing else tells of is fetched, as training does.
        notify: receives lines for the user.

    Raises:
        RecipeError: see `read_yaml`, `parse_overrides` and `validate`.
        CheckpointError: see `kind_of`.
    """
    name = GIVEN if isinstance(source, Mapping) else str(source)
    content = _plain(source) if isinstance(source, Mapping) else _content(source)
    content = merged_values(_without(content, IN_TABLES), parse_overrides(overrides))
    content = merged_values(content, nested(_plain(values or {})))
    asked, content = content.get(KEY), _without(content, KEY)
    if asked == FIT:
        content = _fitted(content, name, download=download, notify=notify)
    elif asked is not None:
        raise RecipeError(f"{name}: {KEY} is {asked!r}; allowed are {FIT}, or null for the plain defaults")
    return validate(content, name)


def read_run_recipe(run: RunFolder) -> Recipe:
    """The recipe of a run, which is resolved: no override or default is laid over it.

    Raises:
        RecipeError: if its file is not there, or is no recipe.
    """
    return validate(read_yaml(run.recipe), str(run.recipe))


def _fitted(
    content: Mapping[str, Any], name: str, *, download: bool, notify: Notify | None
) -> dict[str, Any]:
    """The values, over what fits the base; they are checked before the base is looked for, or fetched."""
    if (found := defaults_of(content, name)) is None:
        return dict(content)
    validate(merged_values(found.fill(UNKNOWN.fit), content), name)
    kind = kind_of(found.base, content.get("architecture"), download=download)
    if notify is not None:
        notify(line_on(found.base, kind))
    return merged_values(found.fill(kind.fit), content)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are laid over a recipe: "a.b" as nested mappings.

    >>> nested({"training.epochs": 3, "base": "a", "experts": {"my.asr": "b"}})
    {'training': {'epochs': 3}, 'base': 'a', 'experts': {'my.asr': 'b'}}
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merged_values(result, value)
    return result


def _plain(value: Any) -> Any:
    """A value from Python as YAML has it: paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise RecipeError(f"{GIVEN} has the key {odd[0]!r}; keys are names, such as training")
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; reading it again gives the same recipe."""
    return to_yaml(recipe.model_dump(mode="json"))
