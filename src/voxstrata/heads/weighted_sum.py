"""The weighted sum of an encoder's states without a stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

EPSILON = 1e-5


def weighted_sum(weights: Tensor, layers: Sequence[Tensor], *, normalize: bool) -> Tensor:
    """sum_l w_l H_l, or sum_l w_l LN(H_l): [L], L tensors [B, T, D] -> [B, T, D].

    Summed layer by layer, at least in float32. For the gradient only the states themselves are kept, which
    the encoder holds anyway: normalised states are computed again.

    Args:
        weights: [L].
        layers: L states.
        normalize: zero mean and unit variance over the features of each state first, without parameters.
    """
    total: Tensor = _WeightedSum.apply(weights, normalize, *layers)
    return total


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, normalize: bool, *layers: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *layers)
        ctx.normalize = normalize
        wide = _wide(layers[0])
        total = torch.zeros(layers[0].shape, dtype=wide, device=layers[0].device)
        for weight, state in zip(weights.to(wide), layers, strict=True):
            total.addcmul_(_normalized(state.to(wide)) if normalize else state.to(wide), weight)
        return total.to(layers[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *layers = ctx.saved_tensors
        wide = _wide(layers[0])
        gradient = gradient.to(wide)
        of_weights = torch.zeros(len(layers), dtype=wide, device=gradient.device)
        of_layers: list[Tensor | None] = [None] * len(layers)
        for index, state in enumerate(layers):
            form = _normalized(state.to(wide)) if ctx.normalize else state.to(wide)
            of_weights[index] = (gradient * form).sum()
            if ctx.needs_input_grad[2 + index]:
                of_form = gradient * weights[index].to(wide)
                of_state = _through_norm(of_form, state.to(wide), form) if ctx.normalize else of_form
                of_layers[index] = of_state.to(state.dtype)
        return of_weights.to(weights.dtype), None, *of_layers


def _wide(state: Tensor) -> torch.dtype:
    return torch.promote_types(state.dtype, torch.float32)


def _normalized(state: Tensor) -> Tensor:
    return F.layer_norm(state, state.shape[-1:], eps=EPSILON)


def _through_norm(gradient: Tensor, state: Tensor, normalized: Tensor) -> Tensor:
    """The gradient of a state [B, T, D], from that of its normalised form."""
    scale = torch.rsqrt(state.var(-1, correction=0, keepdim=True) + EPSILON)
    along = (gradient * normalized).mean(-1, keepdim=True)
    return (gradient - gradient.mean(-1, keepdim=True) - normalized * along) * scale
