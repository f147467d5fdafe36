"""What a run builds on."""

from __future__ import annotations

from voxstrata.recipes.schema import (
    AdaLTMRecipe,
    AnyRecipe,
    BaseRecipe,
    LateFusionRecipe,
    MultitaskRecipe,
    TextRecipe,
)


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
