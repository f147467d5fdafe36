"""Partition of an encoder's tensors into 1 + L groups (AdaLTM, section 2.2).

Group 0 is everything outside the transformer layers; group l = 1..L is transformer layer l.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from voxstrata.errors import CheckpointError

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def layer_index(name: str) -> int:
    """The group of a tensor, by its name in the backbone.

    >>> layer_index("encoder.layers.0.attention.q_proj.weight"), layer_index("encoder.layer_norm.bias")
    (1, 0)
    """
    match = _LAYER.match(name)
    return int(match[1]) + 1 if match else 0


def partition(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The names of each of the 1 + L groups; every name stands in exactly one.

    Raises:
        CheckpointError: if there is no transformer layer, or one is missing between others.
    """
    groups: dict[int, list[str]] = {0: []}
    for name in names:
        groups.setdefault(layer_index(name), []).append(name)
    layers = max(groups)
    empty = [layer for layer in range(1, layers + 1) if layer not in groups]
    if layers == 0 or empty:
        raise CheckpointError(
            f"no transformer layers {empty or ''} found among the tensors; "
            "a speech encoder has encoder.layers.0, .1, ... without gaps"
        )
    return tuple(tuple(groups[layer]) for layer in range(layers + 1))


def group_sizes(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Parameters in each of the 1 + L groups."""
    return tuple(sum(weights[name].numel() for name in names) for names in partition(weights))


def group_norms(weights: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Euclidean norm of each of the 1 + L groups, summed in float64."""
    return tuple(
        math.sqrt(math.fsum(float(weights[name].double().pow(2).sum()) for name in names))
        for names in partition(weights)
    )
