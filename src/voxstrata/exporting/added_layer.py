"""One more layer, which changes nothing or only normalises, where a class of transformers needs it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.heads.ctc import CTCHead


def with_added_layer(
    encoder: SpeechEncoder, state: Mapping[str, Tensor], config: PretrainedConfig
) -> tuple[PretrainedConfig, dict[str, Tensor]]:
    """An encoder with a last layer of zeros.

    With `do_stable_layer_norm` such a layer gives its input back bit for bit: what it adds is zero.

    Args:
        encoder: WavLM, wav2vec 2.0, HuBERT or their like.
        state: its tensors by name.
        config: to be stored with it.

    Returns:
        The configuration with one layer more, and all tensors.
    """
    config = copy.deepcopy(config)
    config.num_hidden_layers = encoder.num_layers + 1
    with torch.device("meta"):
        wanted = encoder.family.build(config).state_dict()
    prefix = f"encoder.layers.{encoder.num_layers}."
    added = {name: torch.zeros(tensor.shape) for name, tensor in wanted.items() if name.startswith(prefix)}
    return config, {**state, **added}


def with_norm_behind(
    encoder: SpeechEncoder, state: Mapping[str, Tensor], config: PretrainedConfig, head: CTCHead
) -> tuple[PretrainedConfig, dict[str, Tensor]]:
    """An encoder whose last state is that of the given one behind a head's layer norm.

    With `do_stable_layer_norm` transformers passes the last state through a norm: that norm becomes the
    head's. Without, layers end in a norm of their own; then one more layer has two norms and adds zero
    otherwise: the first brings the state to about unit variance, the second is the head's.

    The head's result is g (h - m) / sqrt(v + e) + b with mean m and variance v of the state h. Two norms give
    g c (h - m) / sqrt(c^2 v + e (v + e)) + b, the same where c^2 = v + e; of v the mean over features that
    the last layer's own norm sets is taken. Both differ by less than e / 2 v, some millionths.

    Args:
        encoder: WavLM, wav2vec 2.0, HuBERT or their like.
        state: its tensors by name.
        config: to be stored with it.
        head: with a layer norm.

    Returns:
        The configuration, and all tensors.
    """
    norm = head.norm.state_dict()
    if config.do_stable_layer_norm:
        changed = {f"encoder.layer_norm.{name}": tensor for name, tensor in norm.items()}
        return copy.deepcopy(config), {**state, **changed}
    last = f"encoder.layers.{encoder.num_layers - 1}.final_layer_norm."
    weight, bias = state[last + "weight"].double(), state[last + "bias"].double()
    variance = weight.square().mean() + bias.var(unbiased=False)
    config, tensors = with_added_layer(encoder, state, config)
    prefix = f"encoder.layers.{encoder.num_layers}."
    scale = (variance + config.layer_norm_eps).sqrt().float()
    tensors[f"{prefix}layer_norm.weight"] = scale.expand(encoder.hidden_size).clone()
    tensors |= {f"{prefix}final_layer_norm.{name}": tensor for name, tensor in norm.items()}
    return config, tensors
