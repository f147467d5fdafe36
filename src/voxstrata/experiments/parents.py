"""What a run builds on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError
from voxstrata.recipes.reading import read_recipe
from voxstrata.methods.any_recipe import AnyRecipe
from voxstrata.methods.encoder_recipes import AdaLTMRecipe, FinetuneRecipe, LateFusionRecipe, MultitaskRecipe
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.pretraining.recipe import PretrainRecipe
from voxstrata.config.recipe import BaseRecipe
from voxstrata.methods.baselines.recipes import StatisticsRecipe, TextRecipe
from voxstrata.runs import RunFolder


def experts_of(recipe: AnyRecipe) -> dict[str, str]:
    """Name -> run, model folder or checkpoint of what the recipe merges, fuses or reads beside its base."""
    match recipe:
        case AdaLTMRecipe():
            heads = {f"{task} head": source for task, source in recipe.start_heads.items()}
            return {**recipe.vectors, **{n: s for n, s in heads.items() if s not in recipe.vectors.values()}}
        case MultitaskRecipe():
            return dict(recipe.vectors)
        case LateFusionRecipe():
            return dict(recipe.experts)
        case TextRecipe():
            return {} if recipe.transcripts is None else {"transcripts": recipe.transcripts}
        case FinetuneRecipe() | HarmoniFuseRecipe() | PretrainRecipe() | StatisticsRecipe():
            return {}
        case _:
            # What is not asked here would have no leak check, and a key that does not tell its parents.
            assert_never(recipe)


def transcribing_runs(source: str) -> frozenset[str]:
    """Names of the runs, of a source and all that it builds on, that learned words alone.

    A run whose recipe is not there is not among them: what it learned is not known.
    """
    told: dict[str, set[bool]] = {}
    for name, words_alone in _lineage(Path(source), set()):
        told.setdefault(name, set()).add(words_alone)
    return frozenset(name for name, found in told.items() if found == {True})


def base_of(recipe: AnyRecipe) -> str | None:
    """The encoder that the recipe starts from; None where there is none."""
    return recipe.base if isinstance(recipe, BaseRecipe) else None


def _lineage(source: Path, seen: set[Path]) -> Iterator[tuple[str, bool]]:
    """Name of each run on the way to a source, and whether it learned words alone."""
    run = next((place for place in (source, *source.parents) if RunFolder(place).recipe.is_file()), None)
    if run is None or run.resolve() in seen:
        return
    seen.add(run.resolve())
    recipe = _recipe(run)
    yield run.resolve().name, isinstance(recipe, FinetuneRecipe) and recipe.task == "asr"
    for parent in _parents(run, recipe):
        yield from _lineage(run / parent, seen)
        yield from _lineage(Path(parent), seen)


def _recipe(run: Path) -> AnyRecipe | None:
    try:
        return read_recipe(RunFolder(run).recipe)
    except RecipeError:
        return None


def _parents(run: Path, recipe: AnyRecipe | None) -> Iterator[str]:
    """What a run built on, as its provenance tells, relative to it, or its recipe."""
    about = RunFolder(run).provenance
    told = read_json_object(about) if about.is_file() else {}
    found = [told.get("base"), *(told.get("parents") or {}).values()]
    if recipe is not None:
        found += [base_of(recipe), *experts_of(recipe).values()]
    yield from dict.fromkeys(parent for parent in found if isinstance(parent, str))
