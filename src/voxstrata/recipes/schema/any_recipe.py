"""Every recipe there is, one schema per system: the key `system` tells which."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from voxstrata.recipes.schema.encoders import AdaLTMRecipe, FinetuneRecipe, LateFusionRecipe, MultitaskRecipe
from voxstrata.recipes.schema.harmonifuse import HarmoniFuseRecipe
from voxstrata.recipes.schema.pretraining import PretrainRecipe
from voxstrata.recipes.schema.yardsticks import YardstickRecipe

TrainedRecipe = (
    FinetuneRecipe | AdaLTMRecipe | MultitaskRecipe | LateFusionRecipe | HarmoniFuseRecipe | PretrainRecipe
)
AnyRecipe = TrainedRecipe | YardstickRecipe
RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(Annotated[AnyRecipe, Field(discriminator="system")])
