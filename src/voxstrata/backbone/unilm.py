"""The architecture that a WavLM checkpoint of unilm tells of in its "cfg"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import WavLMConfig

from voxstrata.errors import CheckpointError

_LAYERS = re.compile(r"\[\s*\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)\s*\](?:\s*\*\s*(\d+))?")
_MOST_CONVOLUTIONS = 64
_NORMS = {"default": "group", "layer_norm": "layer"}


def wavlm_config(cfg: Mapping[str, Any]) -> WavLMConfig:
    """The transformers configuration of a unilm WavLM.

    Args:
        cfg: the entry "cfg" of its file.

    Raises:
        CheckpointError: naming what is missing, or what transformers' WavLM has not.
    """
    try:
        front = conv_layers(str(cfg["conv_feature_layers"]))
        if not (cfg["relative_position_embedding"] and cfg["gru_rel_pos"]):
            raise CheckpointError(
                "cfg describes a WavLM without gated relative positions, which transformers has not; "
                "only the published form can be read"
            )
        return WavLMConfig(
            hidden_size=cfg["encoder_embed_dim"],
            num_hidden_layers=cfg["encoder_layers"],
            num_attention_heads=cfg["encoder_attention_heads"],
            intermediate_size=cfg["encoder_ffn_embed_dim"],
            hidden_act=cfg["activation_fn"],
            do_stable_layer_norm=cfg["layer_norm_first"],
            feat_extract_norm=_NORMS[cfg["extractor_mode"]],
            conv_dim=[channels for channels, _, _ in front],
            conv_kernel=[kernel for _, kernel, _ in front],
            conv_stride=[stride for _, _, stride in front],
            conv_bias=cfg["conv_bias"],
            num_conv_pos_embeddings=cfg["conv_pos"],
            num_conv_pos_embedding_groups=cfg["conv_pos_groups"],
            num_buckets=cfg["num_buckets"],
            max_bucket_distance=cfg["max_distance"],
            hidden_dropout=cfg.get("dropout", 0.1),
            attention_dropout=cfg.get("attention_dropout", 0.1),
            activation_dropout=cfg.get("activation_dropout", 0.0),
            feat_proj_dropout=cfg.get("dropout_input", 0.0),
            layerdrop=cfg.get("encoder_layerdrop", 0.0),
        )
    except (KeyError, TypeError) as fault:
        raise CheckpointError(
            f"cfg does not describe a WavLM as unilm does ({fault}); name an encoder of the same architecture"
        ) from None


def conv_layers(text: str) -> list[tuple[int, int, int]]:
    """Channels, kernel and stride of each convolution, from fairseq's expression; it is not evaluated.

    Raises:
        CheckpointError: if it is another expression than a sum of repeated lists, or of too many layers.

    >>> conv_layers("[(512,10,5)] + [(512,3,2)] * 2")
    [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    """
    layers: list[tuple[int, int, int]] = []
    for term in text.split("+"):
        match = _LAYERS.fullmatch(term.strip())
        if match is None or len(term) > 100 or int(match[4] or 1) + len(layers) > _MOST_CONVOLUTIONS:
            raise CheckpointError(
                f"cfg has conv_feature_layers {text[:60]!r}; a sum like '[(512,10,5)] + [(512,3,2)] * 4' is "
                "needed"
            )
        layers += [(int(match[1]), int(match[2]), int(match[3]))] * int(match[4] or 1)
    return layers
