"""Softmax-weighted sum of an encoder's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def normalized(state: Tensor) -> Tensor:
    """A layer's state [B, T, D] at zero mean and unit variance over its features, without parameters."""
    return F.layer_norm(state, state.shape[-1:])


def weighted_sum(weights: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """sum_l w_l H(l): [L], L tensors [B, T, D] -> [B, T, D]; one by one, so that no stack of L is held.

    Raises:
        ValueError: if the number of states is not L.
    """
    if len(layers) != len(weights):
        raise ValueError(f"{len(layers)} states for {len(weights)} layer weights")
    total = weights[0] * layers[0]
    for weight, state in zip(weights[1:], layers[1:], strict=True):
        total = total + weight * state
    return total


class LayerSum(nn.Module):
    """H_out = sum_l softmax(w)_l H(l) over layers 1..L (AdaLTM equation 5; weights start equal).

    Args:
        num_layers: L.
        normalize: bring every layer's state to zero mean and unit variance over its features first
            (parameter-free); off is the literal equation.
    """

    #: Sums that the output holds, one behind the other.
    sums = 1

    def __init__(self, num_layers: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_layers))
        self.normalize = normalize

    @property
    def weights(self) -> Tensor:
        """[L] positive, sum to 1."""
        return torch.softmax(self.logits, dim=0)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """L tensors [B, T, D] -> [B, T, D]: `weighted` of what `prepared` gives for each.

        Raises:
            ValueError: if the number of states is not L.
        """
        return self.weighted([self.prepared(state) for state in layers])

    def prepared(self, state: Tensor) -> Tensor:
        """A layer's state [B, T, D] as it is weighed; nothing that is trained has a part in it."""
        return normalized(state) if self.normalize else state

    def weighted(self, layers: Sequence[Tensor]) -> Tensor:
        """L prepared states -> [B, T, D].

        Raises:
            ValueError: if the number of states is not L.
        """
        return weighted_sum(self.weights, layers)


class ConcatenatedSums(LayerSum):
    """The weighted sum of each of K encoders' layers, concatenated: states of all -> [B, T, K D].

    Args:
        layer_counts: layers of each encoder, in the order of the states.
        normalize: see `LayerSum`.
    """

    def __init__(self, layer_counts: Sequence[int], *, normalize: bool = False) -> None:
        super().__init__(sum(layer_counts), normalize=normalize)
        self.layer_counts = list(layer_counts)
        self.sums = len(self.layer_counts)

    @property
    def weights(self) -> Tensor:
        """[L of all encoders] positive, those of each encoder sum to 1."""
        return torch.cat([part.softmax(0) for part in torch.split(self.logits, self.layer_counts)])

    def weighted(self, layers: Sequence[Tensor]) -> Tensor:
        """Prepared states of all encoders -> [B, T, K D].

        Raises:
            ValueError: if the number of states is another.
        """
        if len(layers) != len(self.logits):
            raise ValueError(f"{len(layers)} states for {len(self.logits)} layer weights")
        sums, start = [], 0
        for weights in torch.split(self.weights, self.layer_counts):
            sums.append(weighted_sum(weights, layers[start : start + len(weights)]))
            start += len(weights)
        return torch.cat(sums, dim=-1)
