"""What every step of a run asks of its recipe, found out once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lhotse.cut import Cut

from voxstrata.config.data import CorpusUse
from voxstrata.methods.cuts import clips_of, corpora_in
from voxstrata.methods.method import Facts, Method
from voxstrata.methods.registry import method_of
from voxstrata.methods.task_sources import AnySources


@dataclass(frozen=True)
class Setup:
    """A run that is about to start.

    Args:
        recipe: resolved.
        method: that the recipe is of.
        facts: what the method says of the recipe.
        sources: its batches.
    """

    recipe: Any
    method: Method[Any]
    facts: Facts
    sources: AnySources

    @classmethod
    def of(cls, recipe: Any) -> Setup:
        """From a recipe; its corpora are read.

        Raises:
            VoxstrataError: see `Method.sources`.
        """
        method = method_of(recipe)
        return cls(recipe, method, method.facts(recipe), method.sources(recipe))

    @property
    def steps(self) -> int:
        """Optimizer steps of its training, if nothing stops it early."""
        return int(self.recipe.training.total_steps(self.sources.train.batches_per_epoch()))

    @property
    def corpora(self) -> tuple[CorpusUse, ...]:
        """All corpora that it uses, each use once."""
        return corpora_in(self.recipe.data, self.facts.tasks)

    def clips(self, split: str) -> Iterator[Cut]:
        """The clips of a split of its corpora, one at a time, whether its batches use them or not."""
        return clips_of(self.recipe.data, self.facts.tasks, split)
