"""The architecture of `wavlm-tiny`: WavLM as transformers builds it, with a front end of two layers.

HuBERT and wav2vec 2.0 of the same sizes have no gated position bias.
"""

from __future__ import annotations

from typing import Literal

from transformers import HubertConfig, PretrainedConfig, Wav2Vec2Config, WavLMConfig

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.front_end import start_from_mel

#: Encoders that can be small.
Kind = Literal["wavlm", "hubert", "wav2vec2"]
_CONFIGS: dict[Kind, type[PretrainedConfig]] = {
    "wavlm": WavLMConfig,
    "hubert": HubertConfig,
    "wav2vec2": Wav2Vec2Config,
}


def tiny_config(
    *,
    kind: Kind = "wavlm",
    hidden_size: int = 128,
    layers: int = 6,
    attention_heads: int = 4,
    feed_forward: int = 512,
    channels: int = 260,
    level_channels: int = 4,
    position_kernel: int = 32,
) -> PretrainedConfig:
    """A small encoder: 25 ms windows every 10 ms, three of them a frame, a frame every 20 ms; no dropout.

    Args:
        kind: of encoder.
        hidden_size: D.
        layers: L.
        attention_heads: per layer.
        feed_forward: width of the feed-forward part.
        channels: of the front end, 4 a band and `level_channels` more.
        level_channels: see `backbone.front_end.start_from_mel`; they need the bias.
        position_kernel: frames that the convolutional position embedding sees.
    """
    return _CONFIGS[kind](
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=attention_heads,
        intermediate_size=feed_forward,
        conv_dim=(channels, channels),
        conv_kernel=(400, 3),
        conv_stride=(160, 2),
        conv_bias=level_channels > 0,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=position_kernel,
        num_conv_pos_embedding_groups=16,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
    )


def start_front_end(encoder: SpeechEncoder, *, level_channels: int = 4) -> None:
    """Starts the first convolution from mel-spaced filters, in place."""
    start_from_mel(encoder.model.feature_extractor.conv_layers[0].conv, level_channels=level_channels)
