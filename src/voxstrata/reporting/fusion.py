"""Fusion weights of a HarmoniFuse run: what each task takes of the encoder's and the LM's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Task -> weights of layers 1..L.
Weights = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class FusionWeights:
    """Of the weights that a run ends with, or has so far.

    Args:
        step: of that validation.
        gate: task -> weights of the encoder's layers.
        alpha: task -> mean weights of the language model's layers.
    """

    step: int
    gate: Weights
    alpha: Weights


def read_fusion(row: Mapping[str, Any]) -> FusionWeights | None:
    """From `gate/TASK/LAYER` and `alpha/TASK/LAYER` of a validation's row; None where there are none."""
    gate, alpha = (_by_task(row, kind) for kind in ("gate", "alpha"))
    return FusionWeights(row["step"], gate, alpha) if gate or alpha else None


def _by_task(row: Mapping[str, Any], kind: str) -> dict[str, list[float]]:
    found: dict[str, dict[int, float]] = {}
    for key, value in row.items():
        head, _, rest = key.partition("/")
        task, _, layer = rest.rpartition("/")
        if head == kind and task and layer.isdecimal():
            found.setdefault(task, {})[int(layer)] = float(value)
    return {task: [layers[layer] for layer in sorted(layers)] for task, layers in found.items()}
