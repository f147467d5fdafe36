"""Softmax-weighted sum of an encoder's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerSum(nn.Module):
    """H_out = sum_l softmax(w)_l H(l) over layers 1..L (AdaLTM equation 5; weights start equal).

    Args:
        num_layers: L.
        normalize: bring every layer's state to zero mean and unit variance over its features first
            (parameter-free); off is the literal equation.
    """

    def __init__(self, num_layers: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_layers))
        self.normalize = normalize

    @property
    def weights(self) -> Tensor:
        """[L] positive, sum to 1."""
        return torch.softmax(self.logits, dim=0)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """L tensors [B, T, D] -> [B, T, D]; summed one by one, so that no stack of L states is held.

        Raises:
            ValueError: if the number of states is not L.
        """
        if len(layers) != len(self.logits):
            raise ValueError(f"{len(layers)} states for {len(self.logits)} layer weights")
        if self.normalize:
            layers = [F.layer_norm(state, state.shape[-1:]) for state in layers]
        weights = self.weights
        total = weights[0] * layers[0]
        for weight, state in zip(weights[1:], layers[1:], strict=True):
            total = total + weight * state
        return total
