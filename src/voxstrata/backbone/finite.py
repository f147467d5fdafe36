"""Weights that no training gives: NaN, infinite, or so large that sums of them overflow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from voxstrata.errors import CheckpointError

#: Trained weights stay below a few thousand, statistics of a batch norm below some millions.
LARGEST_WEIGHT = 1e10


def require_finite(tensors: Iterable[tuple[str, Tensor]], where: object) -> None:
    """Refuses weights that answer nothing.

    Args:
        tensors: names and values; whole numbers are passed over.
        where: the file that they come from, the begin of the error's line.

    Raises:
        CheckpointError: naming the tensors with a value that is NaN, infinite or above `LARGEST_WEIGHT`.
    """
    bad = [name for name, tensor in tensors if not _finite(tensor)]
    if bad:
        raise CheckpointError(
            f"{where}: {len(bad)} tensor{'s' * (len(bad) > 1)} with values that are NaN, infinite or above "
            f"{LARGEST_WEIGHT:g}, e.g. {bad[0]}; the training diverged or the file is broken: give an "
            "earlier checkpoint, or fetch it again"
        )


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())
    # A comparison with NaN is false.
    return float(low) >= -LARGEST_WEIGHT and float(high) <= LARGEST_WEIGHT
