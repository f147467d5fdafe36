"""What the training loop is told, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from voxstrata.errors import RecipeError

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class FitOptions:
    """How long and how to train.

    Args:
        epochs: passes over the training source; exactly one of `epochs` and `steps` is given; with 0 of them
            nothing is trained.
        steps: optimizer steps.
        precision: "fp32", or "bf16" (autocast; weights and optimizer stay in float32).
        accumulate: batches a step; the step equals one with all their clips in one batch.
        betas: decay rates of AdamW's two moments.
        clip_norm: largest norm of the gradient of all parameters together; None: no limit.
        schedule: of the learning rates after the warm-up: "constant", "linear" or "cosine" (both to zero).
        warmup: share of all steps in which the rates rise linearly, in [0, 1).
        warmup_steps: the same as a number of steps; at most one of both is above 0.
        patience: validations in a row without a lower loss after which training stops; None: never.
        validate_every: steps between validations; None: at the end of each epoch. One is done after the
            last step in any case.
        checkpoint_every_steps: steps between checkpoints, beside those at each epoch's end.
        keep_best: end with the weights of the lowest validation loss.
        seed: of dropout and whatever else draws random numbers in training.

    Raises:
        RecipeError: if values are out of range or do not fit together.
    """

    epochs: int | None = None
    steps: int | None = None
    precision: str = "fp32"
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    schedule: str = "constant"
    warmup: float = 0.0
    warmup_steps: int = 0
    patience: int | None = None
    validate_every: int | None = None
    checkpoint_every_steps: int | None = None
    keep_best: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise RecipeError(f"give epochs or steps, not both; found {self.epochs=}, {self.steps=}")
        if self.precision not in PRECISIONS:
            raise RecipeError(f"precision is {self.precision!r}; allowed: {', '.join(PRECISIONS)}")
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if self.epochs is not None and self.epochs < 0:
            raise RecipeError(f"epochs is {self.epochs}; 0 (nothing is trained) or more are needed")
        for name in ("steps", "accumulate", "patience", "validate_every", "checkpoint_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name} is {value}; at least 1 is needed")
        if (self.clip_norm is not None and self.clip_norm <= 0) or self.warmup_steps < 0:
            raise RecipeError(
                f"clip_norm must be positive and warmup_steps not negative; found {self.clip_norm}, "
                f"{self.warmup_steps}"
            )
        if not 0 <= self.warmup < 1 or (self.warmup and self.warmup_steps):
            raise RecipeError(
                f"warmup is {self.warmup:g} and warmup_steps {self.warmup_steps}; give a share from 0 to "
                "below 1, "
                "or a number of steps, not both"
            )

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of a whole training; a step never reaches over the end of an epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * math.ceil(batches_per_epoch / self.accumulate)

    def warmup_of(self, total: int) -> int:
        """Steps of linear rise in a training of `total` steps; a share of them is rounded down.

        >>> FitOptions(epochs=3, warmup=0.1).warmup_of(59)
        5
        """
        return math.floor(self.warmup * total + 1e-9) if self.warmup else self.warmup_steps


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
