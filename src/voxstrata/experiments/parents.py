"""What a run builds on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from voxstrata.config.recipe import Recipe
from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder


def experts_of(recipe: Recipe) -> dict[str, str]:
    """Name -> run, model folder or checkpoint of what the recipe builds on beside its base."""
    return {parent.name: parent.source for parent in method_of(recipe).facts(recipe).parents}


def transcribing_runs(source: str) -> frozenset[str]:
    """Names of the runs, of a source and all that it builds on, that learned words alone.

    A run whose recipe is not there is not among them: what it learned is not known.
    """
    told: dict[str, set[bool]] = {}
    for name, words_alone in _lineage(Path(source), set()):
        told.setdefault(name, set()).add(words_alone)
    return frozenset(name for name, found in told.items() if found == {True})


def base_of(recipe: Recipe) -> str | None:
    """The encoder that the recipe starts from; None where there is none."""
    return method_of(recipe).facts(recipe).base


def _lineage(source: Path, seen: set[Path]) -> Iterator[tuple[str, bool]]:
    """Name of each run on the way to a source, and whether it learned words alone."""
    run = next((place for place in (source, *source.parents) if RunFolder(place).recipe.is_file()), None)
    if run is None or run.resolve() in seen:
        return
    seen.add(run.resolve())
    recipe = _recipe(run)
    words_alone = recipe is not None and method_of(recipe).facts(recipe).learns == {"transcript"}
    yield run.resolve().name, words_alone
    for parent in _parents(run, recipe):
        yield from _lineage(run / parent, seen)
        yield from _lineage(Path(parent), seen)


def _recipe(run: Path) -> Recipe | None:
    try:
        return read_recipe(RunFolder(run).recipe)
    except RecipeError:
        return None


def _parents(run: Path, recipe: Recipe | None) -> Iterator[str]:
    """What a run built on, as its provenance tells, relative to it, or its recipe."""
    about = RunFolder(run).provenance
    told = read_json_object(about) if about.is_file() else {}
    found = [told.get("base"), *(told.get("parents") or {}).values()]
    if recipe is not None:
        found += [base_of(recipe), *experts_of(recipe).values()]
    yield from dict.fromkeys(parent for parent in found if isinstance(parent, str))
