"""Which methods there are: those of this package, those of installed ones, and those that a program adds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from voxstrata.config.recipe import Recipe
from voxstrata.errors import RecipeError

if TYPE_CHECKING:
    from voxstrata.methods.method import Method
    from voxstrata.methods.model_kinds import ModelKind

#: Modules of this package with a `METHOD` (or several: `METHODS`), in the order in which they are listed.
_OWN = (
    "baselines.finetune",
    "adaltm.method",
    "baselines.multitask",
    "baselines.late_fusion",
    "harmonifuse.method",
    "pretraining.method",
    "baselines.statistics",
    "baselines.text",
)
#: Entry points by which other packages offer methods: NAME = "module:METHOD".
GROUP = "voxstrata.methods"

_known: dict[str, Method[Any]] = {}


def methods() -> Mapping[str, Method[Any]]:
    """Every method by its name, the value of `system` in its recipes."""
    _load()
    return _known


@cache
def _load() -> None:
    for module in _OWN:
        _add(import_module(f"voxstrata.methods.{module}").METHOD)
    for point in entry_points(group=GROUP):
        _add(point.load())


def model_kinds() -> dict[str, ModelKind]:
    """Every kind of trained model that a method saves, by the name that model.json tells."""
    return {kind.name: kind for method in methods().values() for kind in method.kinds}


def register(method: Method[Any]) -> None:
    """Adds a method, so that recipes, tables and commands know it.

    Raises:
        RecipeError: if another one has its name.
    """
    # Those of the package come first, whoever asks first.
    _load()
    _add(method)


def _add(method: Method[Any]) -> None:
    if _known.get(method.name, method) is not method:
        raise RecipeError(f"there is a method {method.name!r} already; give the new one another name")
    _known[method.name] = method


def method_of(recipe: Recipe) -> Method[Any]:
    """The method that a recipe is of.

    Raises:
        RecipeError: if no such method is registered.
    """
    found = methods().get(recipe.system)
    if found is None or not isinstance(recipe, found.recipe):
        raise RecipeError(
            f"no method {recipe.system!r} of {type(recipe).__name__} is registered; known are "
            f"{', '.join(methods())}"
        )
    return found
