"""A merge at coefficient 1 is the expert itself, bit for bit.

Base plus difference is that only to rounding: where an expert's weight is much smaller than the base's, the
difference in 32 bits has lost its last digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from voxstrata.backbone.checkpoints import Checkpoint, open_checkpoint
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.locate import locate
from voxstrata.errors import CheckpointError
from voxstrata.reporting.coefficients import Coefficients

#: What rounding may move: a share of a tensor's largest value.
_ROUNDING = 1e-6


@torch.no_grad()
def take_experts_at_one(
    encoder: SpeechEncoder, found: Coefficients, experts: Mapping[str, Path | str]
) -> None:
    """Gives a merged encoder an expert's tensors where its coefficient is 1 and all others are 0, in place.

    An expert that is not there any more, or holds something else than what was merged, changes nothing.

    Args:
        encoder: merged.
        found: the coefficients that it was merged with.
        experts: vector -> where the expert lies.
    """
    opened: dict[str, Checkpoint | None] = {}
    for name, merged in encoder.weights().items():
        rows = found.coefficients
        row = dict(zip(found.vectors, rows[layer_index(name) if len(rows) > 1 else 0], strict=True))
        used = {vector: value for vector, value in row.items() if value}
        if list(used.values()) != [1.0] or name in encoder.family.fixed:
            continue
        (vector,) = used
        if vector not in opened:
            opened[vector] = _opened(experts.get(vector), encoder)
        expert = opened[vector]
        if expert is None or not expert.holds(name, tuple(merged.shape)):
            continue
        _take(expert.tensor(name), merged)


def _take(expert: Tensor, merged: Tensor) -> None:
    if float((expert - merged).abs().max()) <= _ROUNDING * float(merged.abs().max()):
        merged.copy_(expert)


def _opened(place: Path | str | None, encoder: SpeechEncoder) -> Checkpoint | None:
    """An expert's checkpoint; None without one, or where it holds factors of a difference alone."""
    if place is None:
        return None
    try:
        found = open_checkpoint(locate(place, download=False), encoder.family)
    except CheckpointError:
        return None
    return found if found.lora is None else None
