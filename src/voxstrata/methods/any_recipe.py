"""Every recipe there is, one schema per system: the key `system` tells which."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from voxstrata.methods.encoder_recipes import AdaLTMRecipe, FinetuneRecipe, LateFusionRecipe, MultitaskRecipe
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.pretraining.recipe import PretrainRecipe
from voxstrata.methods.baselines.recipes import YardstickRecipe

TrainedRecipe = (
    FinetuneRecipe | AdaLTMRecipe | MultitaskRecipe | LateFusionRecipe | HarmoniFuseRecipe | PretrainRecipe
)
AnyRecipe = TrainedRecipe | YardstickRecipe
RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(Annotated[AnyRecipe, Field(discriminator="system")])
