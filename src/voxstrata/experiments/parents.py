"""What a run builds on."""

from __future__ import annotations

from pathlib import Path

from voxstrata.recipes.reading import read_yaml
from voxstrata.recipes.schema.any_recipe import AnyRecipe
from voxstrata.recipes.schema.encoders import AdaLTMRecipe, LateFusionRecipe, MultitaskRecipe
from voxstrata.recipes.schema.recipe import BaseRecipe
from voxstrata.recipes.schema.yardsticks import TextRecipe
from voxstrata.runs import RunFolder


def experts_of(recipe: AnyRecipe) -> dict[str, str]:
    """Name -> run, model folder or checkpoint of what the recipe merges, fuses or reads beside its base."""
    if isinstance(recipe, AdaLTMRecipe):
        heads = {f"{task} head": source for task, source in recipe.start_heads.items()}
        return {**recipe.vectors, **{n: s for n, s in heads.items() if s not in recipe.vectors.values()}}
    if isinstance(recipe, MultitaskRecipe):
        return dict(recipe.vectors)
    if isinstance(recipe, LateFusionRecipe):
        return dict(recipe.experts)
    if isinstance(recipe, TextRecipe) and recipe.transcripts is not None:
        return {"transcripts": recipe.transcripts}
    return {}


def transcribes_only(source: str) -> bool:
    """Whether an expert is a run that learned words alone; False where that is not told."""
    recipe = RunFolder(Path(source)).recipe
    return recipe.is_file() and read_yaml(recipe).get("task") == "asr"


def base_of(recipe: AnyRecipe) -> str | None:
    """The encoder that the recipe starts from; None where there is none."""
    return recipe.base if isinstance(recipe, BaseRecipe) else None
