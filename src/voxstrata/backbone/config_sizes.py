"""Checks the sizes in an encoder's configuration before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from voxstrata.backbone.plain_values import MOST_LAYERS
from voxstrata.errors import CheckpointError

#: Whole numbers that have to be there, where their names are: name -> the largest.
_COUNTS = {
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers"), MOST_LAYERS),
    **dict.fromkeys(("hidden_size", "d_model"), 1 << 16),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads"), 1 << 12),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim"), 1 << 20),
    **dict.fromkeys(("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"), 1 << 16),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "num_mel_bins"), 1 << 14),
    **dict.fromkeys(("num_buckets", "max_bucket_distance"), 1 << 20),
    **dict.fromkeys(("num_feat_extract_layers",), 64),
    "vocab_size": 10_000_000,
}
#: Lists of whole numbers, one for each convolution of a front end.
_FRONT_END = ("conv_dim", "conv_kernel", "conv_stride")
_MOST_CONVOLUTIONS = 64
#: Of all other names: what counts something, and what is a share.
_LAYERS = re.compile(r"(layers|blocks|depth)$")
_SIZE = re.compile(r"_(size|dim|heads|groups|positions|bins|kernel|stride|embeddings|buckets|rank)$")
_SHARE = re.compile(r"(dropout|layerdrop|drop_prob)$")
_LARGEST = 10_000_000
#: The width of a model, and its heads, which share it evenly.
_SHARED = (
    ("hidden_size", "num_attention_heads"),
    ("d_model", "encoder_attention_heads"),
    ("hidden_size", "num_conv_pos_embedding_groups"),
)


def check_sizes(config: Mapping[str, Any], where: object) -> None:
    """Refuses sizes that no encoder has.

    Args:
        config: content of config.json, or what stands for it.
        where: it was read, the begin of the error's line.

    Raises:
        CheckpointError: naming the setting, what it is and what is allowed.
    """
    for name, value in config.items():
        if name in _COUNTS:
            _require(_whole(value, 1, _COUNTS[name]), where, name, value, f"1 to {_COUNTS[name]:,}")
        elif name in _FRONT_END:
            good = isinstance(value, list | tuple) and 0 < len(value) <= _MOST_CONVOLUTIONS
            good = good and all(_whole(one, 1, 1 << 16) for one in value)
            _require(good, where, name, value, f"a list of 1 to {_MOST_CONVOLUTIONS} whole numbers from 1 on")
        elif name == "layer_norm_eps":
            _require(_number(value) and 0 < value < 1, where, name, value, "between 0 and 1")
        elif _number(value):
            _check_other(name, value, where)
    lengths = {name: len(config[name]) for name in _FRONT_END if name in config}
    if len(set(lengths.values())) > 1:
        raise CheckpointError(f"{where} tells of {lengths} convolutions, which is one number; fetch it again")
    for width, parts in _SHARED:
        if width in config and parts in config and config[width] % config[parts]:
            raise CheckpointError(
                f"{where} has {width} {config[width]}, which {parts} {config[parts]} does not divide; "
                "fetch it again"
            )


def _check_other(name: str, value: Any, where: object) -> None:
    if _LAYERS.search(name):
        _require(_whole(value, 0, MOST_LAYERS), where, name, value, f"0 to {MOST_LAYERS:,}")
    elif _SIZE.search(name):
        _require(_number(value) and -1 <= value <= _LARGEST, where, name, value, f"0 to {_LARGEST:,}")
    elif _SHARE.search(name):
        _require(_number(value) and 0 <= value <= 1, where, name, value, "0 to 1")


def _require(good: bool, where: object, name: str, value: Any, allowed: str) -> None:
    if not good:
        raise CheckpointError(
            f"{where} has {name} {str(value)[:60] if value is not None else 'null'}; allowed is {allowed}: "
            "fetch it again, or name an encoder of the same architecture beside it (architecture)"
        )


def _whole(value: Any, lowest: int, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= largest


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
