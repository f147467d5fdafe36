"""Recipes of yardsticks: what is measured without a training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from voxstrata.config.recipe import Recipe
from voxstrata.config.strict import Positive, PositiveNumber


class StatisticsRecipe(Recipe):
    """A yardstick: acoustic statistics and an SVM (see `systems.statistics`)."""

    system: Literal["statistics"] = "statistics"
    cost: PositiveNumber = 10.0
    gamma: PositiveNumber = 5e-4
    speaker_normalized: bool = False


class TextRecipe(Recipe):
    """A yardstick: the words alone (see `systems.text`).

    `transcripts` is a run (or a folder of predictions files) whose recognised words are asked about in the
    place of the reference ones; learned is from the reference words in any case.
    """

    system: Literal["text"] = "text"
    transcripts: str | None = None
    cost: PositiveNumber = 10.0
    ngrams: Positive = 2

    @model_validator(mode="after")
    def _classes(self) -> TextRecipe:
        self.data.require_classes(self.system)
        return self


YardstickRecipe = StatisticsRecipe | TextRecipe
