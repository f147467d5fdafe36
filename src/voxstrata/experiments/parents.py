"""What a run builds on."""

from __future__ import annotations

from voxstrata.recipes.schema.any_recipe import AnyRecipe
from voxstrata.recipes.schema.encoders import AdaLTMRecipe, LateFusionRecipe, MultitaskRecipe
from voxstrata.recipes.schema.recipe import BaseRecipe
from voxstrata.recipes.schema.yardsticks import TextRecipe


def experts_of(recipe: AnyRecipe) -> dict[str, str]:
    """Name -> run, model folder or checkpoint of what the recipe merges, fuses or reads beside its base."""
    if isinstance(recipe, AdaLTMRecipe | MultitaskRecipe):
        return dict(recipe.vectors)
    if isinstance(recipe, LateFusionRecipe):
        return dict(recipe.experts)
    if isinstance(recipe, TextRecipe) and recipe.transcripts is not None:
        return {"transcripts": recipe.transcripts}
    return {}


def base_of(recipe: AnyRecipe) -> str | None:
    """The encoder that the recipe starts from; None where there is none."""
    return recipe.base if isinstance(recipe, BaseRecipe) else None
