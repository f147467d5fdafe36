"""Where bf16 on the CPU is not to be trusted.

oneDNN's bf16 convolutions on processors with AVX-512 BF16 or AMX are wrong for some grouped shapes (an
error as large as the result, seen with torch 2.13 for even kernels and up to 12 channels a group, and of
the kind of pytorch issue 163347). That is the shape of a small encoder's position embedding.
"""

from __future__ import annotations

import types

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def _outside_autocast(self: nn.Module, hidden: Tensor) -> Tensor:
    if hidden.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return type(self).forward(self, hidden)
    with torch.autocast("cpu", enabled=False):
        return type(self).forward(self, hidden.float())


def keep_positions_exact(model: PreTrainedModel) -> None:
    """Lets the model's convolutional position embedding leave autocast on the CPU (it stays in fp32)."""
    module = model.encoder.pos_conv_embed
    module.forward = types.MethodType(_outside_autocast, module)
