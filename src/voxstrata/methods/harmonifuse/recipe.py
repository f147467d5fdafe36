"""The recipe of HarmoniFuse; its parts are one to one the options of `systems.harmonifuse.options`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from voxstrata.config.recipe import BaseRecipe, Training
from voxstrata.config.strict import (
    WIDEST,
    Count,
    Fraction,
    Gigabytes,
    Positive,
    PositiveNumber,
    Rate,
    Size,
    Strict,
)
from voxstrata.config.task_use import TaskUse


class EncoderFusion(Strict):
    """See `fusion.gated_encoder.GatedEncoderFusion`."""

    mode: Literal["gated", "fixed", "last"] = "gated"
    layer: Positive | None = None
    per_task: bool = True
    normalize: bool = True

    @model_validator(mode="after")
    def _layer_where_fixed(self) -> EncoderFusion:
        if (self.mode == "fixed") != (self.layer is not None):
            raise ValueError("encoder_fusion.layer goes with mode fixed, and is needed there")
        return self


class LayerFusion(Strict):
    """See `systems.harmonifuse.options.LayerFusionOptions`."""

    scores: Literal["both", "task", "input", "last"] = "both"
    width: Size = 256
    norm: Literal["plain", "model", "none"] | None = None
    last_start: float | None = None


class Bridge(Strict):
    """See `speech_lm.connector.Connector`."""

    stack: Size = 5
    width: Size = 2048


class LanguageModelUse(Strict):
    """A language model from scratch of this shape, or a `pretrained` one with adapters.

    See `speech_lm.language_model.SmallLM` and `speech_lm.pretrained.PretrainedLM`.
    """

    layers: Size = 4
    size: Size = 128
    heads: Size = 4
    feed_forward: Size = 512
    dropout: Fraction = 0.0
    pretrained: str | None = None
    rank: Annotated[Count, Field(le=WIDEST)] = 16
    scale: PositiveNumber = 32.0
    adapter_dropout: Fraction = 0.05

    @model_validator(mode="after")
    def _shapes_fit(self) -> LanguageModelUse:
        if self.size % (2 * self.heads):
            raise ValueError("lm.size must be a multiple of twice lm.heads")
        return self


class Decoding(Strict):
    """See `speech_lm.decoding.DecodingOptions`."""

    beam: Positive = 1
    length_exponent: Rate = 1.0
    tokens_per_s: PositiveNumber = 30.0
    tokens_extra: Count = 10
    repeats: Count = 8
    longest_pattern: Positive = 24
    cache: bool = True

    @model_validator(mode="after")
    def _a_pattern_may_occur(self) -> Decoding:
        if self.repeats == 1:
            raise ValueError("decoding.repeats is 1: give 0 (no limit) or at least 2")
        return self


class HarmoniFuseRates(Strict):
    """See `systems.harmonifuse.options.HarmoniFuseRates`."""

    new: Rate = 1e-4
    adapters: Rate = 2e-4
    fusion: Rate = 1e-3
    encoder: Rate = 1e-5
    weight_decay: Rate = 0.01


class HarmoniFuseRecipe(BaseRecipe):
    """One speech language model for several tasks, each from its own corpora (see `systems.harmonifuse`).

    A task that is null is left out. `cache_gb` is the disk for the states of an encoder that is not trained;
    0 computes them in every epoch.
    """

    system: Literal["harmonifuse"] = "harmonifuse"
    tasks: dict[str, TaskUse] = Field(min_length=1)
    encoder_fusion: EncoderFusion = EncoderFusion()
    layer_fusion: LayerFusion = LayerFusion()
    connector: Bridge = Bridge()
    lm: LanguageModelUse = LanguageModelUse()
    prompt_tokens: Size = 1
    label_smoothing: Fraction = 0.1
    class_answers: Literal["head", "words"] = "head"
    class_weights: Literal["equal", "balanced"] = "equal"
    encoder_trained: Literal["none", "top", "all"] = "none"
    encoder_top: Positive = 4
    cache_gb: Gigabytes = 10.0
    decoding: Decoding = Decoding()
    rates: HarmoniFuseRates = HarmoniFuseRates()
    training: Training

    @field_validator("tasks", mode="before")
    @classmethod
    def _without_absent(cls, tasks: object) -> object:
        return {k: v for k, v in tasks.items() if v is not None} if isinstance(tasks, dict) else tasks

    @model_validator(mode="after")
    def _whole_clips_of_classes(self) -> HarmoniFuseRecipe:
        self.data.require_whole_clips(self.system)
        if self.data.labels is not None:
            raise ValueError("data.labels belong to a task here: give tasks.ser.labels")
        self.data.require_classes(self.system)
        return self
