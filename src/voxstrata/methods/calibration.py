"""What is known of a model's emotion probabilities: their temperature, and the class prior behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, and under which class prior those were learned.

    Args:
        temperature: by which logits are divided (Guo et al. 2017, arXiv 1706.04599); labels do not change.
        prior: class -> share, as the training loss saw it: shares of the training targets, times the class
            weights of the loss. None: not known.
    """

    temperature: float = 1.0
    prior: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As in model.json."""
        prior = {} if self.prior is None else {"prior": dict(self.prior)}
        return {"temperature": self.temperature, **prior}

    @classmethod
    def from_dict(cls, told: Any) -> Calibration:
        """As it stands in model.json.

        Raises:
            ValueError: if it does not hold.
        """
        if not isinstance(told, Mapping):
            raise ValueError(f"calibration is {str(told)[:40]!r}; an object is needed")
        temperature, prior = told.get("temperature", 1.0), told.get("prior")
        if not _is_number(temperature) or temperature <= 0:
            raise ValueError(f"its temperature is {str(temperature)[:40]}; a number above 0 is needed")
        if prior is not None:
            shares = [*prior.values()] if isinstance(prior, Mapping) else []
            if not all(_is_number(share) and share >= 0 for share in shares) or not sum(shares) > 0:
                raise ValueError(f"its prior is {str(prior)[:40]}; shares by class are needed")
        return cls(float(temperature), prior)

    def probabilities(self, logits: Tensor) -> list[list[float]]:
        """Logits [B, C] as probabilities of each clip."""
        if self.temperature == 1:
            rows: list[list[float]] = logits.float().softmax(-1).tolist()
            return rows
        # In float64 a high temperature makes no two classes equal.
        tempered: list[list[float]] = (logits.double() / self.temperature).softmax(-1).tolist()
        return tempered


def most_probable(labels: Sequence[str], logits: Tensor) -> list[str]:
    """The class of each clip, from logits [B, C]: the first of those that are equal."""
    # Of the same numbers as ever: a softmax in float32.
    rows = logits.float().softmax(-1).tolist()
    return [labels[max(range(len(row)), key=row.__getitem__)] for row in rows]


def effective_prior(targets: Tensor, weights: Tensor | None, labels: Sequence[str]) -> dict[str, float]:
    """The class prior under which a model learns by class-balanced soft cross-entropy.

    The loss of a clip is (sum_c w_c y_c) times its cross-entropy, so that a clip counts as that many: the
    prior is the mean of the targets, weighted so.

    Args:
        targets: [N, C] of the training clips, rows sum to 1.
        weights: [C] of the classes; None for equal ones.
        labels: C names.
    """
    counts = torch.ones(len(targets)) if weights is None else targets @ weights.to(targets)
    mass = (targets.double() * counts.double().unsqueeze(1)).sum(0)
    return dict(zip(labels, (mass / mass.sum()).tolist(), strict=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
