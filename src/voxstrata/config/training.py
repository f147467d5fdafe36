"""How long and how to train: the section `training` of a recipe, as the loop takes it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from voxstrata.config.strict import Count, Fraction, Positive, PositiveNumber, Strict


class Training(Strict):
    """How long and how to train.

    Args:
        epochs: passes over the training clips; exactly one of `epochs` and `steps` is given.
        steps: optimizer steps.
        precision: "fp32", or "bf16" (autocast; weights and optimizer stay in float32).
        accumulate: batches per step; the step equals one with all their clips in one batch.
        betas: decay rates of AdamW's two moments.
        clip_norm: largest norm of the gradient of all parameters together.
        schedule: of the learning rates after the warm-up: "constant", or "linear" or "cosine" decay to zero.
        warmup: share of all steps in which the rates rise linearly, in [0, 1).
        warmup_steps: the same as a number of steps; at most one of both is above 0.
        patience: validations in a row without a lower loss after which training stops; None: never.
        validate_every: steps between validations; None: at the end of each epoch. One is done after the last
            step in any case.
        checkpoint_every_steps: steps between checkpoints, beside those at each epoch's end.
        keep_best: end with the weights of the lowest validation loss, else with the last. With few dev
            speakers the lowest loss may come by chance.
        tracker: also send losses, rates and the recipe to "tensorboard" (files in the run folder), "wandb",
            "mlflow" or "trackio"; its package must be installed. It changes no result.

    Raises:
        ValueError: if values are out of range or do not fit together.
    """

    epochs: Positive | None = None
    steps: Positive | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: Positive = 1
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip_norm: PositiveNumber = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Fraction = 0.0
    warmup_steps: Count = 0
    patience: Positive | None = None
    validate_every: Positive | None = None
    checkpoint_every_steps: Positive | None = None
    keep_best: bool = True
    tracker: Literal["tensorboard", "wandb", "mlflow", "trackio"] | None = None

    @model_validator(mode="after")
    def _one_length_and_one_warmup(self) -> Training:
        if self.epochs is None and self.steps is None:
            raise ValueError("neither epochs nor steps is given; give one of them, e.g. training.epochs=3")
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs is {self.epochs} and steps is {self.steps}, and one of them sets the length; take "
                "the other one out: training.epochs=null or training.steps=null"
            )
        if self.warmup and self.warmup_steps:
            raise ValueError(
                f"warmup is {self.warmup:g} and warmup_steps is {self.warmup_steps}, and one of them sets "
                "the warm-up; set the other one to 0: training.warmup=0 or training.warmup_steps=0"
            )
        return self

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of a whole training; a step never reaches over the end of an epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * math.ceil(batches_per_epoch / self.accumulate)

    def warmup_of(self, total: int) -> int:
        """Steps of linear rise in a training of `total` steps; a share of them is rounded down.

        >>> Training(epochs=3, warmup=0.1).warmup_of(59)
        5
        """
        return math.floor(self.warmup * total + 1e-9) if self.warmup else self.warmup_steps


class TrainingOrNone(Training):
    """With `epochs: 0` nothing is trained: the model answers with what it starts from."""

    epochs: Count | None = None
