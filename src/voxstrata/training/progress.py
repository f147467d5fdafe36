"""Where training stands, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where training stands after a step.

    Args:
        step: optimizer steps done.
        steps_total: steps of the whole training.
        epoch: index of the epoch that the step belongs to.
        loss: mean over the step's clips.
        val_loss: of the latest validation; None before the first.
        resumed_at: steps that an earlier start had done; None where this is the first.
    """

    step: int
    steps_total: int
    epoch: int
    loss: float
    val_loss: float | None
    resumed_at: int | None = None


@dataclass(frozen=True)
class FitResult:
    """How training ended.

    Args:
        steps: optimizer steps done.
        epochs: whole epochs done.
        best_loss: lowest validation loss; None without validation.
        best_step: the step that reached it.
        stopped_early: patience ran out before the planned end.
    """

    steps: int
    epochs: int
    best_loss: float | None
    best_step: int | None
    stopped_early: bool
