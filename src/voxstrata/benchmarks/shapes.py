"""Sizes of encoders to measure, with random weights: what they compute costs what the real ones cost."""

from __future__ import annotations

from typing import Any, Literal, get_args

from transformers import PretrainedConfig, WavLMConfig

from voxstrata.errors import VoxstrataError

Shape = Literal["tiny", "base", "large"]

_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    },
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    },
}


def wavlm_config(shape: Shape, layers: int | None = None) -> PretrainedConfig:
    """The configuration of WavLM-Base or WavLM-Large, or of one small enough for tests.

    Args:
        shape: width and depth.
        layers: another depth.

    Raises:
        VoxstrataError: if there is no such shape.
    """
    if shape not in _SIZES:
        raise VoxstrataError(f"unknown shape {shape!r}; allowed are {', '.join(get_args(Shape))}")
    depth = {} if layers is None else {"num_hidden_layers": layers}
    return WavLMConfig(**{**_SIZES[shape], **depth})
