"""What the runner may ask of a method: one class a method, which stands beside the method's modules.

Runs, tables, the dry run and the leak guard know methods by these classes alone. Every question is abstract:
a method that leaves one open cannot be made, so that nothing is ever assumed of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from transformers import PretrainedConfig

from voxstrata.batches.cached import KeptStates
from voxstrata.config.recipe import Recipe
from voxstrata.config.task_use import TaskUse
from voxstrata.methods.fits import Fit
from voxstrata.methods.model_kinds import ModelKind
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction
from voxstrata.system import System

Notify = Callable[[str], None]
R = TypeVar("R", bound=Recipe)

#: What training clips are used for, by which leaks are named (see `config.leaks`).
Stage = Literal["pretraining", "lambda-fit", "fine-tuning"]


@dataclass(frozen=True)
class Parent:
    """A model (or its answers) that a run builds on, beside its base.

    Args:
        name: in provenance and in messages.
        source: a run, a model folder, a checkpoint or a hub id.
        place: keys of the recipe that lead to it.
        identity: what a run's content key tells of a source that is no run of the same table: "encoder", the
            weights as the recipe's settings load them; "checkpoint", the file's own; "path", its spelling.
    """

    name: str
    source: str
    place: tuple[str, ...]
    identity: Literal["encoder", "checkpoint", "path"]


@dataclass(frozen=True)
class Work:
    """What decides the cost of a training, for estimates.

    Args:
        encoders: that run side by side.
        vectors: task vectors held beside the base.
        trained: what of the encoder is trained: "none", "layers" (not its convolutional front end), "all".
        still: its states are the same in every epoch, so that they can be kept.
        pooled: of such states one mean a clip and layer is kept, else all frames.
        cache_gb: disk that they may take.
    """

    encoders: int = 1
    vectors: int = 0
    trained: Literal["none", "layers", "all"] = "none"
    still: bool = False
    pooled: bool = False
    cache_gb: float = 0.0


@dataclass(frozen=True)
class Facts:
    """What a method says of a recipe before anything is built; each fact has to be given.

    Args:
        tasks: tasks with corpora of their own, by name; empty where `data.corpora` alone are read.
        learns: fields of clips that it is trained towards: "transcript", "emotion", or the names of others.
        base: the encoder that it starts from; None without one.
        parents: all that it builds on beside its base: what the leak guard asks, and a run's key tells.
        fitted_on_heldout: its training clips must be of speakers that no emotion expert among its parents
            heard.
        encoders: every encoder that runs: the base, or experts side by side; empty where it is made anew.
        new_encoder: the configuration of one that training makes from scratch; None for all other methods.
        writes_ctc: CTC needs a frame for each character of the training clips.
        resting_steps: steps at the start in which the encoder does not learn yet.
        work: what decides its cost; None where costs are not estimated.
    """

    tasks: Mapping[str, TaskUse]
    learns: frozenset[str]
    base: str | None
    parents: tuple[Parent, ...]
    fitted_on_heldout: bool
    encoders: tuple[str, ...]
    new_encoder: PretrainedConfig | None
    writes_ctc: bool
    resting_steps: int
    work: Work | None

    @property
    def built_on(self) -> list[tuple[str, str]]:
        """All that it builds on, as pairs of role and source: "base", then its parents by their names."""
        base = [] if self.base is None else [("base", self.base)]
        return base + [(parent.name, parent.source) for parent in self.parents]


@dataclass(frozen=True)
class Defaults:
    """Defaults that fit an encoder.

    Args:
        base: the encoder whose family and size decide.
        fill: what fits it -> values of a recipe.
    """

    base: str
    fill: Callable[[Fit], dict[str, Any]]


class Method(ABC, Generic[R]):
    """A paper's method or a baseline.

    Class attributes:
        recipe: its schema; the key `system` of a recipe names the method.
        stage: what its own training clips are used for.
        kinds: of the models that it saves; none for a method that keeps no model, or a plain encoder.
    """

    recipe: type[R]
    stage: ClassVar[Stage]
    kinds: ClassVar[tuple[ModelKind, ...]]

    @property
    def name(self) -> str:
        """The value of the key `system` in its recipes."""
        return str(self.recipe.model_fields["system"].default)

    @abstractmethod
    def facts(self, recipe: R) -> Facts:
        """What a recipe says of its run."""

    @abstractmethod
    def sources(self, recipe: R) -> AnySources:
        """Its batches.

        Raises:
            VoxstrataError: if there is nothing to train on, or a clip lacks what is needed.
        """

    @abstractmethod
    def defaults(self, values: Mapping[str, Any]) -> Defaults | None:
        """What `defaults: fit` gives; None for a method with values of its own.

        Args:
            values: of a recipe, as its author gave them, not validated yet.
        """


class TrainedMethod(Method[R]):
    """A method that the training loop trains."""

    @abstractmethod
    def build(self, recipe: R, sources: AnySources, notify: Notify) -> System:
        """Its modules; what starts at random depends on the recipe's seed only.

        Args:
            recipe: of the run.
            sources: of the recipe; clips that cannot be used are left out of them.
            notify: receives lines for the user.

        Raises:
            VoxstrataError: if clips, encoders and recipe do not fit together.
        """

    @abstractmethod
    def kept(self, recipe: R, system: System) -> KeptStates | None:
        """What of a clip is the same in every epoch; None: nothing.

        Args:
            recipe: of the run.
            system: built from it, on the device of the training.

        Raises:
            CheckpointError: if something would be, but for the weights; saying which.
        """

    @abstractmethod
    def save(self, system: System, folder: Path) -> None:
        """Writes the model folder."""


class MeasuredMethod(Method[R]):
    """A baseline without a training loop: it learns and answers in one call."""

    @abstractmethod
    def answers(self, recipe: R, sources: AnySources, notify: Notify) -> dict[str, list[Prediction]]:
        """Split -> predictions of its clips, learned from the training clips.

        Args:
            recipe: of the run.
            sources: of the recipe.
            notify: receives lines for the user.

        Raises:
            VoxstrataError: if the clips tell too little to learn from.
        """
