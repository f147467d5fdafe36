"""Learning rates as a pure function of the step."""

from __future__ import annotations

import math


def lr_factor(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """Share of the peak learning rate at a step, in [0, 1].

    Args:
        step: index of the step, from 0.
        total: steps of the whole training.
        warmup: steps of linear rise; the first step after them has the peak rate.
        schedule: "constant", "linear" (to zero after the last step) or "cosine" (half a wave to zero).

    >>> [lr_factor(s, total=6, warmup=2, schedule="linear") for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
