"""Parts of a HarmoniFuse recipe, one to one the options of `systems.harmonifuse_options`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from voxstrata.recipes.strict import Count, Momentum, Positive, PositiveNumber, Rate, Strict


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
    """See `systems.harmonifuse_options.LayerFusionOptions`."""

    scores: Literal["both", "task", "input", "last"] = "both"
    width: Positive = 256
    norm: Literal["plain", "model", "none"] | None = None
    last_start: float | None = None


class Bridge(Strict):
    """See `speech_lm.connector.Connector`."""

    stack: Positive = 5
    width: Positive = 2048


class LanguageModelUse(Strict):
    """A language model from scratch of this shape, or a `pretrained` one with adapters.

    See `speech_lm.language_model.SmallLM` and `speech_lm.pretrained.PretrainedLM`.
    """

    layers: Positive = 4
    size: Positive = 128
    heads: Positive = 4
    feed_forward: Positive = 512
    dropout: Momentum = 0.0
    pretrained: str | None = None
    rank: Count = 16
    scale: PositiveNumber = 32.0
    adapter_dropout: Momentum = 0.05

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
    """See `systems.harmonifuse_options.HarmoniFuseRates`."""

    new: Rate = 1e-4
    adapters: Rate = 2e-4
    fusion: Rate = 1e-3
    encoder: Rate = 1e-5
    weight_decay: Rate = 0.01
