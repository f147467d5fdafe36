"""The recipe of AdaLTM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from voxstrata.config.head import HeadOptions
from voxstrata.config.recipe import BaseRecipe, require_init
from voxstrata.config.strict import Coefficient, Gigabytes, Name, Number, Positive, Rate, Strict, Text
from voxstrata.config.task_use import TaskUse
from voxstrata.config.training import TrainingOrNone
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.held import PLAIN, vector_rule
from voxstrata.methods.frozen_encoder import HeadRates

#: What an encoder can be merged for.
JointTask = Literal["ser", "asr"]


class AdaLTMRates(HeadRates):
    """Peak learning rates of the coefficients, of the emotion head's parts, and of a transcription head.

    With 0 a part stays as it is.

    Args:
        coefficients: learning rate of the merging coefficients. One moves by at most about rate times steps.
        asr_head: learning rate of the transcription head; with 0 it stays as it is.
    """

    coefficients: Rate = 1e-4
    asr_head: Rate = 0.0


class CompressOptions(Strict):
    """How many directions of each matrix of a task vector are kept; give one of the two.

    Args:
        rank: at most so many; a LoRA adapter of that rank or less stays as it is.
        energy: the fewest that hold this share of the matrix's squared norm, above 0 and at most 1.
    """

    rank: Positive | None = None
    energy: Annotated[Number, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> CompressOptions:
        if (self.rank is None) == (self.energy is None):
            raise ValueError("give rank or energy, one of them, e.g. compress={rank: 16}")
        return self


class AdaLTMRecipe(BaseRecipe):
    """Merge the task vectors of experts into a frozen base (AdaLTM, arXiv 2603.25041).

    Coefficients, layer weights and head are trained. Without vectors this is the frozen baseline; with
    `granularity: static` the merge with fixed coefficients. With `tasks` (ser and asr) the encoder has a
    head for each task, learned from its own corpora.

    Args:
        vectors: name -> run, model folder or checkpoint of an expert; any number.
        granularity: "layer": a coefficient per layer and vector; "global": one per vector; "static": fixed.
        init: start value of the coefficients: a number, or one per vector.
        rule: merge rule that edits the vectors once, before their coefficients are learned. "task-arithmetic"
            leaves them as they are. Coefficients per layer over vectors that "ties" edits are the merge of
            AdaMerging++ (arXiv 2310.02575), which learns them without labels.
        compress: keep of each vector's matrices the main directions only, `rank` or `energy`, to learn and
            hold them in less time and memory; none: all of them.
        words: where the base is a whole Whisper, its decoder transcribes in `predict` from the "plain" base
            or from the "merged" encoder.
        tasks: ser and asr, see `tasks`; none: emotions alone.
        coefficients: "shared" by both tasks, or "per_task": two merges of the same base and vectors.
        learn_from: tasks whose losses train the coefficients; none named: both. The other head is trained
            too, without an effect on the coefficients.
        start_heads: task -> run or model folder whose head it starts from; other tasks start with a new
            head. With both heads and `training.epochs: 0` nothing is trained.
        fit_on: "heldout" refuses to train coefficients and head on speakers, clips or recordings that an
            emotion expert was fine-tuned on.
        rates: learning rates.
        head: of emotions.
        cache_gb: disk space in GB for what is the same in every epoch (states of a frozen encoder, or of
            layers below the first one that a vector changes). It is computed once where clips are neither
            cropped nor augmented, and deleted when the run is complete. 0: off.
        training: how long and how to train.
    """

    system: Literal["adaltm"] = "adaltm"
    vectors: dict[Name, Text] = Field(default_factory=dict)
    granularity: Literal["layer", "global", "static"] = "layer"
    init: Coefficient | dict[str, Coefficient] = 0.5
    rule: str = PLAIN
    compress: CompressOptions | None = None
    words: Literal["plain", "merged"] = "plain"
    tasks: dict[JointTask, TaskUse] = Field(default_factory=dict)
    coefficients: Literal["shared", "per_task"] = "shared"
    learn_from: tuple[JointTask, ...] = ()
    start_heads: dict[JointTask, Text] = Field(default_factory=dict)
    fit_on: Literal["train", "heldout"] = "train"
    rates: AdaLTMRates = AdaLTMRates()
    head: HeadOptions = HeadOptions()
    cache_gb: Gigabytes = 10.0
    training: TrainingOrNone

    @model_validator(mode="after")
    def _each_vector_has_its_coefficient(self) -> AdaLTMRecipe:
        require_init(self.init, self.vectors)
        return self

    @field_validator("rule")
    @classmethod
    def _coefficients_can_be_learned(cls, name: str) -> str:
        try:
            return vector_rule(name).name
        except CheckpointError as fault:
            raise ValueError(str(fault)) from None

    @model_validator(mode="after")
    def _what_is_compressed_is_no_rules(self) -> AdaLTMRecipe:
        if self.compress is not None and not self.vectors:
            raise ValueError("compress is given without vectors; name them in vectors, or leave compress out")
        if self.compress is not None and self.rule != PLAIN:
            raise ValueError(
                f"compress is given with rule {self.rule}, whose edited vectors have no low rank; leave one "
                "of them out"
            )
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
            raise ValueError(
                f"tasks names {', '.join(self.tasks)} alone; give both ser and asr, or leave tasks out to "
                "learn from emotions alone"
            )
        if any(use.field is not None for use in self.tasks.values()) or self.tasks["asr"].labels is not None:
            raise ValueError(
                "tasks of adaltm are words (asr) and emotions (ser): leave field, and labels of asr, out"
            )
        if self.coefficients == "per_task" and self.granularity == "static":
            raise ValueError(
                "coefficients is per_task and granularity is static, which learns none; give "
                "granularity=layer or global, or coefficients=shared"
            )
        self.data.require_whole_clips("adaltm with tasks")
        self.data.require_classes("adaltm with tasks")
        if self.data.labels is not None:
            raise ValueError(
                "data.labels is given, and classes belong to a task here; give tasks.ser.labels, and "
                "data.labels=null"
            )
        return self
