"""Recipes of emotions and words over one encoder or several: finetune, adaltm, multitask, late-fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from voxstrata.config.recipe import BaseRecipe, Head, Recipe, Training, TrainingOrNone
from voxstrata.config.strict import Coefficient, Count, Gigabytes, Name, Rate, Strict
from voxstrata.config.task_use import TaskUse

#: What an encoder can be merged for.
JointTask = Literal["ser", "asr"]


def _require_init(init: object, vectors: Mapping[str, str]) -> None:
    if isinstance(init, dict) and init.keys() != vectors.keys():
        raise ValueError(
            f"init names {', '.join(init) or 'nothing'}, and the vectors are {', '.join(vectors) or 'none'}; "
            "give a coefficient for each vector, or one number for all"
        )


class FinetuneRates(Strict):
    """See `systems.finetune.FinetuneRates`."""

    encoder: Rate = 1e-5
    head: Rate = 1e-4
    layer_weights: Rate = 1e-3
    weight_decay: Rate = 0.01
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    warm_head_steps: Count = 0


class FinetuneRecipe(BaseRecipe):
    """An expert: `task: ser` with an emotion head, `task: asr` with CTC over characters."""

    system: Literal["finetune"] = "finetune"
    task: Literal["ser", "asr"]
    rates: FinetuneRates = FinetuneRates()
    head: Head = Head()
    freeze_front_end: bool = True
    training: Training

    @model_validator(mode="after")
    def _whole_clips_for_asr(self) -> FinetuneRecipe:
        if self.task == "asr":
            self.data.require_whole_clips("task asr")
            if self.data.targets == "dimensions":
                raise ValueError("data.targets dimensions is of task ser: leave it out for task asr")
        return self


class AdaLTMRates(Strict):
    """See `systems.adaltm.AdaLTMRates` and `systems.joint_adaltm.JointRates`."""

    coefficients: Rate = 1e-4
    layer_weights: Rate = 1e-4
    head: Rate = 1e-4
    asr_head: Rate = 0.0
    weight_decay: Rate = 0.01


class AdaLTMRecipe(BaseRecipe):
    """Merge task vectors of the experts in `vectors` (name -> run, model folder or checkpoint).

    `fit_on` heldout: coefficients and head are fitted on speakers that no emotion expert has heard.
    `cache_gb` is the disk for what is the same in every epoch; 0 computes it anew.

    `words`: where the base is a whole Whisper, what its decoder listens to in predictions of recordings: the
    base, or the merged encoder.

    With `tasks` (ser, asr) the encoder has a head for each (see `systems.joint_adaltm`): coefficients are
    learned from the losses of the tasks in `learn_from` (none named: of all), shared or per task.
    `start_heads`: task -> run or model folder whose head it starts from; a task without one has a new head.
    With both heads given and `training.epochs` 0 nothing is trained: a merge of fixed coefficients.
    """

    system: Literal["adaltm"] = "adaltm"
    vectors: dict[Name, str] = Field(default_factory=dict)
    granularity: Literal["layer", "global", "static"] = "layer"
    init: Coefficient | dict[str, Coefficient] = 0.5
    words: Literal["plain", "merged"] = "plain"
    tasks: dict[JointTask, TaskUse] = Field(default_factory=dict)
    coefficients: Literal["shared", "per_task"] = "shared"
    learn_from: tuple[JointTask, ...] = ()
    start_heads: dict[JointTask, str] = Field(default_factory=dict)
    fit_on: Literal["train", "heldout"] = "train"
    rates: AdaLTMRates = AdaLTMRates()
    head: Head = Head()
    cache_gb: Gigabytes = 10.0
    training: TrainingOrNone

    @model_validator(mode="after")
    def _each_vector_has_its_coefficient(self) -> AdaLTMRecipe:
        _require_init(self.init, self.vectors)
        return self

    @model_validator(mode="after")
    def _heads_are_learned_or_given(self) -> AdaLTMRecipe:
        if self.training.epochs == 0 and set(self.start_heads) != {"ser", "asr"}:
            raise ValueError(
                "training.epochs is 0, so that nothing is learned: give both heads in start_heads "
                "(ser and asr), or at least one epoch"
            )
        return self

    @model_validator(mode="after")
    def _tasks_go_together(self) -> AdaLTMRecipe:
        if not self.tasks:
            joint = {
                "coefficients": self.coefficients == "per_task",
                "learn_from": bool(self.learn_from),
                "start_heads": bool(self.start_heads),
                "rates.asr_head": self.rates.asr_head > 0,
            }
            if named := [name for name, used in joint.items() if used]:
                raise ValueError(
                    f"{', '.join(named)}: of use with tasks only; give tasks: {{ser: ..., asr: ...}}"
                )
            return self
        if set(self.tasks) != {"ser", "asr"}:
            raise ValueError("tasks must name both ser and asr; leave tasks out to learn from emotions alone")
        if any(use.field is not None for use in self.tasks.values()) or self.tasks["asr"].labels is not None:
            raise ValueError(
                "tasks of adaltm are words (asr) and emotions (ser): leave field, and labels of asr, out"
            )
        if self.coefficients == "per_task" and self.granularity == "static":
            raise ValueError("coefficients per_task are learned ones: give granularity layer or global")
        self.data.require_whole_clips("adaltm with tasks")
        self.data.require_classes("adaltm with tasks")
        if self.data.labels is not None:
            raise ValueError("data.labels belong to a task here: give tasks.ser.labels")
        return self


class MultitaskRecipe(BaseRecipe):
    """Emotions and words learned jointly by one encoder, all of it trained (see `systems.multitask`).

    With `vectors` (name -> run, model folder or checkpoint) the start is the base merged with them, once.
    """

    system: Literal["multitask"] = "multitask"
    vectors: dict[Name, str] = Field(default_factory=dict)
    init: Coefficient | dict[str, Coefficient] = 0.5
    asr_weight: Rate = 0.1
    selected_by: Literal["joint", "emotion"] = "joint"
    clips: Literal["both", "any"] = "both"
    rates: FinetuneRates = FinetuneRates()
    head: Head = Head()
    freeze_front_end: bool = False
    training: Training

    @model_validator(mode="after")
    def _selected_by_something(self) -> MultitaskRecipe:
        if self.selected_by == "emotion" and not self.training.keep_best and self.training.patience is None:
            raise ValueError(
                "selected_by is emotion, and neither training.keep_best nor training.patience selects; "
                "switch one on, or leave selected_by out"
            )
        return self

    @model_validator(mode="after")
    def _whole_clips_with_classes(self) -> MultitaskRecipe:
        self.data.require_whole_clips(self.system)
        self.data.require_classes(self.system)
        return self


class LateFusionRates(Strict):
    """See `systems.frozen_encoder.HeadRates`."""

    layer_weights: Rate = 1e-4
    head: Rate = 1e-4
    weight_decay: Rate = 0.01


class LateFusionRecipe(Recipe):
    """One head over the features of several frozen experts (see `systems.late_fusion`).

    `experts`: name -> run, model folder or checkpoint. `cache_gb` is the disk for their states; `fit_on` as
    in AdaLTM.
    """

    system: Literal["late-fusion"] = "late-fusion"
    experts: dict[Name, str] = Field(default_factory=dict)
    architecture: str | None = None
    final_norm: bool = False
    normalize: bool | None = None
    window: Literal["clip", "30s"] = "clip"
    fit_on: Literal["train", "heldout"] = "train"
    rates: LateFusionRates = LateFusionRates()
    head: Head = Head()
    cache_gb: Gigabytes = 10.0
    training: Training
