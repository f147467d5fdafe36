"""Small tensors for merge rules, and their merges as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from voxstrata.merging.rules.registry import RULES, options_of
from voxstrata.merging.rules.rule import TensorToMerge

Array = np.ndarray[Any, Any]


def to_merge(base: Any, experts: Sequence[Any], coefficients: Sequence[float], **more: Any) -> TensorToMerge:
    """A tensor of numbers as they are written in a test."""
    return TensorToMerge(
        more.pop("name", "layer.weight"),
        torch.as_tensor(np.asarray(base, dtype=np.float64)),
        tuple(torch.as_tensor(np.asarray(expert, dtype=np.float64)) for expert in experts),
        tuple(float(coefficient) for coefficient in coefficients),
        statistics=tuple(None if s is None else torch.as_tensor(s) for s in more.pop("statistics", ())),
        **more,
    )


def drawn(shape: tuple[int, ...], experts: int = 2, seed: int = 0) -> tuple[Array, list[Array]]:
    """A base and its fine-tunes, as checkpoints hold them: float32 numbers."""
    numbers = np.random.default_rng(seed)
    base = numbers.normal(size=shape).astype(np.float32)
    tuned = [base + 0.1 * numbers.normal(size=shape).astype(np.float32) for _ in range(experts)]
    return base.astype(np.float64), [expert.astype(np.float32).astype(np.float64) for expert in tuned]


def merged(method: str, tensor: TensorToMerge, **options: Any) -> Array:
    """What a method makes of a tensor; `lambda` is written `lambda_`."""
    given = {name.rstrip("_"): value for name, value in options.items()}
    return RULES[method].merge(tensor, options_of(RULES[method], given)).numpy()


def edited(method: str, tensor: TensorToMerge, **options: Any) -> list[Array]:
    """The edited task vectors of a method that has them."""
    rule: Any = RULES[method]
    return [vector.numpy() for vector in rule.edited(tensor, options_of(rule, options))]
