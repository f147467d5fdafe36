"""The recipe of pre-training a small encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from voxstrata.config.recipe import TrainedRecipe
from voxstrata.config.strict import Count, Number, Positive, Rate, Size, Strict
from voxstrata.config.training import Training


class TinyEncoder(Strict):
    """A small encoder with a two-layer front end (400 and 3 samples wide, a frame every 20 ms).

    Args:
        kind: architecture, all of the same size.
        hidden_size: features per frame.
        layers: transformer layers.
        attention_heads: per layer.
        feed_forward: width of the feed-forward part.
        channels: of the front end: 4 per band, and `level_channels` more.
        level_channels: channels that keep the level of the signal.
        position_kernel: frames that the convolutional position embedding covers.
    """

    kind: Literal["wavlm", "hubert", "wav2vec2"] = "wavlm"
    hidden_size: Size = 128
    layers: Size = 6
    attention_heads: Size = 4
    feed_forward: Size = 512
    channels: Size = 260
    level_channels: Count = 4
    position_kernel: Size = 32

    @model_validator(mode="after")
    def _shapes_fit(self) -> TinyEncoder:
        if (self.channels - self.level_channels) % 4 or self.channels - self.level_channels < 8:
            raise ValueError(
                "channels - level_channels must be a multiple of 4, at least 8 (4 phases a band)"
            )
        if self.hidden_size % self.attention_heads or self.hidden_size % 16:
            raise ValueError("hidden_size must be a multiple of attention_heads and of 16")
        return self


class Clusters(Strict):
    """Targets of masked prediction.

    Args:
        cepstral: clusters of the spectral envelope.
        prosodic: clusters of pitch, voicing, energy and tilt.
        fit_batches: batches that the clusters are computed from.
    """

    cepstral: Size = 128
    prosodic: Size = 64
    fit_batches: Positive = 60


class PretrainingOptions(Strict):
    """Rates and weights.

    Args:
        lr: peak learning rate; the weights of the layer sums get ten times as much.
        weight_decay: of everything but the layer sums.
        mask_share: share of masked frames.
        visible_weight: weight of the clusters of frames that were not masked.
        phoneme_weight: of the phonemes' loss.
    """

    lr: Rate = 3e-4
    weight_decay: Rate = 0.01
    mask_share: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    visible_weight: Rate = 0.1
    phoneme_weight: Rate = 1.0


class PretrainRecipe(TrainedRecipe, PretrainingOptions):
    """Pre-train a small encoder from scratch by masked prediction of clustered targets; needs no labels.

    Args:
        encoder: its size.
        clusters: targets.
        phonemes: also predict the phoneme of every frame where the corpus has a column `phonemes`
            ("start_s:symbol" separated by spaces), as `corpus synth` writes it.
        training: how long and how to train.
    """

    system: Literal["pretraining"] = "pretraining"
    encoder: TinyEncoder = TinyEncoder()
    clusters: Clusters = Clusters()
    phonemes: bool = False
    training: Training
