"""Does an expert descend from a base? A task vector between strangers is noise."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

from voxstrata.backbone.groups import layer_index

#: Median correlation below which an expert is taken for a stranger. Independently trained matrices of
#: n entries correlate by 1 / sqrt(n) (0.03 at 32 x 32, 0.001 at 1024 x 1024); fine-tuned ones by 0.5 to 1.
KINSHIP_THRESHOLD = 0.2


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson correlation of two tensors' entries; 0 where one is constant.

    >>> round(correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])), 6)
    1.0
    """
    # In single precision equal matrices of a million entries correlate by 1.000004.
    x, y = (tensor.double().flatten() for tensor in (first, second))
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.norm() * y.norm())
    return float(torch.dot(x, y)) / scale if scale else 0.0


class Kinship:
    """Collects the correlations of an expert's transformer matrices with the base's, one at a time."""

    def __init__(self) -> None:
        self._correlations: list[float] = []

    def add(self, name: str, base: Tensor, expert: Tensor) -> None:
        """Takes a pair of tensors into account, if it is a matrix of a transformer layer."""
        if layer_index(name) and base.ndim == 2 and base.numel() >= 256:
            self._correlations.append(correlation(base, expert))

    @property
    def value(self) -> float:
        """Median correlation in [-1, 1]; 1 where nothing can be compared."""
        return median(self._correlations) if self._correlations else 1.0

    @property
    def related(self) -> bool:
        """Whether the expert comes from the base."""
        return self.value >= KINSHIP_THRESHOLD


def unrelated(source: str, kinship: float) -> str | None:
    """A sentence on an expert that does not come from the base, or None.

    Args:
        source: the expert, as it was given.
        kinship: `Kinship.value`.
    """
    if kinship >= KINSHIP_THRESHOLD:
        return None
    return (
        f"{source} does not seem to come from this base: its matrices correlate with the base's by "
        f"{kinship:.3f}, at least {KINSHIP_THRESHOLD} is expected; what differs is no fine-tuning then"
    )
