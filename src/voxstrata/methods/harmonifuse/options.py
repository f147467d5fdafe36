"""What the HarmoniFuse paper leaves open, as options: sections of its recipe. Every default is ours."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from voxstrata.config.strict import (
    WIDEST,
    Count,
    Fraction,
    Number,
    Positive,
    PositiveNumber,
    Rate,
    Size,
    Strict,
    Text,
)

EncoderFusionMode = Literal["gated", "fixed", "last"]
LayerScores = Literal["both", "task", "input", "last"]
#: Form of a language model's states (see `lm.language_model.LanguageModel`).
StateNorm = Literal["plain", "model", "none"]


class EncoderFusionOptions(Strict):
    """See `gated_encoder.GatedEncoderFusion`.

    Args:
        mode: "gated": a learned sum of all layers; "fixed": layer `layer` alone; "last": the last layer.
        layer: for "fixed", from 1.
        per_task: weights for each task; else one vector for all, as in the paper's equation.
        normalize: bring each layer to zero mean and unit variance first; off is the paper's equation.
    """

    mode: EncoderFusionMode = "gated"
    layer: Positive | None = None
    per_task: bool = True
    normalize: bool = True

    @model_validator(mode="after")
    def _layer_where_fixed(self) -> EncoderFusionOptions:
        if (self.mode == "fixed") != (self.layer is not None):
            raise ValueError(
                f"mode is {self.mode} and layer is {self.layer or 'null'}; mode fixed"
                " needs a layer, and the others take none (encoder_fusion.layer=null)"
            )
        return self


class LayerFusionOptions(Strict):
    """See `prompt_adaptive.PromptAdaptiveFusion`; `norm`: `lm.language_model.LanguageModel`.

    Args:
        scores: of the language model's layers: "both" (a scalar per task and layer, and a small network on
            the state), "task" or "input" (one of them), "last" (no fusion).
        width: of that network.
        norm: form of the states: "plain" (normalised), "model" (through the model's final norm, which must
            be found) or "none"; None: "plain" from scratch, "model" if pretrained.
        last_start: start of the last layer's scalar; None: 0 (all layers equal) from scratch, 5 if
            pretrained (alpha of the last of 12 layers starts at .93, of 32 at .83).
    """

    scores: LayerScores = "both"
    width: Size = 256
    norm: StateNorm | None = None
    last_start: Number | None = None


class ConnectorOptions(Strict):
    """See `lm.connector.Connector`.

    Args:
        stack: encoder frames per input of the language model; 5 give ten inputs a second.
        width: between its two linear maps.
    """

    stack: Size = 5
    width: Size = 2048


class LMOptions(Strict):
    """A language model from scratch, or a pretrained one with adapters.

    The paper does not state its own; 12 layers of 768 are near it.

    Args:
        layers: L, from scratch.
        size: D, from scratch.
        heads: of attention, from scratch; D is a multiple of twice their number.
        feed_forward: width of the feed-forward part, from scratch.
        dropout: of attention weights in training, from scratch.
        pretrained: hub id or folder of a causal language model with safetensors; None: one from scratch.
        rank: of the adapters of all linear maps of a pretrained one; 0: none, the model stays as it is.
        scale: the adapters' output is multiplied by scale / rank.
        adapter_dropout: before the adapters, in training.
    """

    layers: Size = 4
    size: Size = 128
    heads: Size = 4
    feed_forward: Size = 512
    dropout: Fraction = 0.0
    pretrained: Text | None = None
    rank: Annotated[Count, Field(le=WIDEST)] = 16
    scale: PositiveNumber = 32.0
    adapter_dropout: Fraction = 0.05

    @model_validator(mode="after")
    def _shapes_fit(self) -> LMOptions:
        if self.size % (2 * self.heads):
            raise ValueError(
                f"lm.size is {self.size} and lm.heads is {self.heads}; size must be a multiple of twice heads"
            )
        return self


class DecodingOptions(Strict):
    """How text is searched for, and when a search must end.

    Args:
        beam: hypotheses kept; 1 is greedy.
        length_exponent: hypotheses are compared by their log probability / tokens ** this at the end.
        tokens_per_s: most tokens to a second of speech; fast speech has about 25 characters.
        tokens_extra: tokens allowed beyond that, for very short clips.
        repeats: a pattern of tokens follows itself at most so often; 0: as often as the model likes.
        longest_pattern: tokens in the longest pattern that `repeats` looks for.
        cache: keep keys and values; without, every step reads everything again, as a reference.
    """

    beam: Positive = 1
    length_exponent: Rate = 1.0
    tokens_per_s: PositiveNumber = 30.0
    tokens_extra: Count = 10
    repeats: Count = 8
    longest_pattern: Positive = 24
    cache: bool = True

    @model_validator(mode="after")
    def _a_pattern_may_occur(self) -> DecodingOptions:
        if self.repeats == 1:
            raise ValueError("decoding.repeats is 1: give 0 (no limit) or at least 2")
        return self

    def limits(self, durations_s: Tensor) -> Tensor:
        """Most tokens [B] for clips of these seconds [B]."""
        return (durations_s * self.tokens_per_s).ceil().long() + self.tokens_extra


class HarmoniFuseRates(Strict):
    """Peak learning rates; 0 freezes a part.

    Args:
        new: connector, prompts, score network, heads, and a language model from scratch.
        adapters: of a pretrained language model.
        fusion: the gates of the encoder's layers and the scalars s of the language model's; no weight decay.
        encoder: what of the encoder is trained.
        weight_decay: of all but the fusion scalars and a merged encoder's coefficients.
    """

    new: Rate = 1e-4
    adapters: Rate = 2e-4
    fusion: Rate = 1e-3
    encoder: Rate = 1e-5
    weight_decay: Rate = 0.01


class HarmoniFuseOptions(Strict):
    """The model of HarmoniFuse, as far as its paper does not state it.

    Args:
        encoder_fusion: gated (over all layers), one fixed layer, or the last.
        layer_fusion: scores of the language model's layers.
        connector: from the encoder to the language model.
        lm: a language model from scratch, or a pretrained one with adapters.
        prompt_tokens: learned embeddings of a task's prompt.
        label_smoothing: of the token loss.
        class_answers: how classes are predicted: by a linear head on the fused state of the last prompt
            position, or as "words" through the token head, one of the label names.
        encoder_trained: "none", the "top" layers, or "all" but the front end; of a merged encoder these are
            its coefficients, so "top" does not go.
        encoder_top: number of trained layers, for "top".
        decoding: search for the transcript.
        rates: learning rates.
    """

    encoder_fusion: EncoderFusionOptions = EncoderFusionOptions()
    layer_fusion: LayerFusionOptions = LayerFusionOptions()
    connector: ConnectorOptions = ConnectorOptions()
    lm: LMOptions = LMOptions()
    prompt_tokens: Size = 1
    label_smoothing: Fraction = 0.1
    class_answers: Literal["head", "words"] = "head"
    encoder_trained: Literal["none", "top", "all"] = "none"
    encoder_top: Positive = 4
    decoding: DecodingOptions = DecodingOptions()
    rates: HarmoniFuseRates = HarmoniFuseRates()

    @property
    def state_norm(self) -> StateNorm:
        """The form of the language model's states, where None was resolved."""
        default: StateNorm = "plain" if self.lm.pretrained is None else "model"
        return self.layer_fusion.norm or default

    @property
    def last_start(self) -> float:
        """The start of the last layer's scalar, where None was resolved."""
        if self.layer_fusion.last_start is not None:
            return self.layer_fusion.last_start
        return 0.0 if self.lm.pretrained is None else 5.0
