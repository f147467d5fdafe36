"""Sequences of parts of unequal length, `[speech][task prompt][text]`, without gaps between the parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """Padded rows.

    Args:
        values: [B, S, D], zero where padded.
        mask: bool [B, S], true where not padded.
    """

    values: Tensor
    mask: Tensor

    @property
    def lengths(self) -> Tensor:
        """[B] valid positions."""
        return self.mask.sum(1)

    @property
    def positions(self) -> Tensor:
        """[B, S] of each value in its row, counted from its first valid one; 0 in padding before it."""
        return (self.mask.long().cumsum(1) - 1).clamp_min(0)


def valid(lengths: Tensor, longest: int) -> Tensor:
    """Bool [B, longest], true on the first `lengths` [B] of each row."""
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)


def join(parts: Sequence[tuple[Tensor, Tensor]], *, pad_left: bool = False) -> Sequences:
    """Rows that hold the valid values of all parts, one after the other.

    Args:
        parts: values [B, N_i, D] and lengths [B]; valid are the first of each row.
        pad_left: whether the padding comes before a row, so that all rows end together; else behind it.
    """
    values = torch.cat([part for part, _ in parts], dim=1)
    mask = torch.cat([valid(lengths, part.shape[1]) for part, lengths in parts], dim=1)
    order = torch.sort((mask if pad_left else ~mask).int(), dim=1, stable=True).indices
    longest = int(mask.sum(1).max())
    order = order[:, -longest:] if pad_left else order[:, :longest]
    mask = mask.gather(1, order)
    values = values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
    return Sequences(values.masked_fill(~mask.unsqueeze(-1), 0), mask)
