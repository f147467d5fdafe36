"""From probabilities to an answer: another class prior, and answers that are marked as unsure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from voxstrata.errors import CheckpointError, PredictionsError
from voxstrata.evaluation.priors import GivenPrior, adjusted, read_prior, shares_over
from voxstrata.inference.published_classifier import PublishedClassifier
from voxstrata.inference.recognition import Segment
from voxstrata.methods.encoder_models import Model
from voxstrata.predictions import Prediction

Array = NDArray[np.float64]
_Answer = TypeVar("_Answer", Prediction, Segment)

#: A probability that was rounded to zero counts as so little, so that another prior can still raise it.
_LEAST = 1e-45


@dataclass(frozen=True)
class Decision:
    """What is made of the probabilities of emotions.

    Args:
        unsure_below: an answer whose probability is lower is marked; None: nothing is marked.
        names: the emotions of the model.
        trained: `[C]` its prior in training; None with `wanted`: probabilities stay as they are.
        wanted: `[C]` the prior to answer for.
    """

    unsure_below: float | None = None
    names: tuple[str, ...] = ()
    trained: Array | None = None
    wanted: Array | None = None

    @classmethod
    def of(
        cls, models: Iterable[nn.Module], unsure_below: float | None, prior: GivenPrior | None
    ) -> Decision:
        """What was asked for, held against the models.

        Args:
            models: that answer.
            unsure_below: above 0, up to 1.
            prior: see `evaluation.priors.read_prior`; Saerens et al. 2002, equation 2.4.

        Raises:
            PredictionsError: if a number or prior does not hold.
            CheckpointError: if no model answers emotions as classes, or its own prior is not known.
        """
        if unsure_below is None and prior is None:
            return cls()
        if unsure_below is not None and not (math.isfinite(unsure_below) and 0 < unsure_below <= 1):
            raise PredictionsError(
                f"unsure_below is {unsure_below:g}; give a probability above 0, up to 1, e.g. 0.5"
            )
        named = [model for model in models if isinstance(model, PublishedClassifier) or _emotions(model)]
        if not named:
            raise CheckpointError(
                "no model here answers emotions as classes, which unsure_below and prior are for; leave them "
                "out, or give a model of emotions"
            )
        if prior is None:
            return cls(unsure_below)
        known = next((one for one in named if isinstance(one, Model) and one.calibration.prior), None)
        if known is None:
            raise CheckpointError(
                "the class prior that this model was trained under is not stored with it, and another prior "
                "needs it; train the model again, or leave the prior out and adjust its predictions file: "
                "voxstrata evaluate --prior --train-prior"
            )
        names = _emotions(known)
        trained = shares_over(known.calibration.prior, names, "the model's own prior")
        wanted = shares_over(read_prior(prior), names, "prior")
        # What was never seen in training is never answered.
        wanted = np.where(trained > 0, wanted, 0.0)
        if not wanted.any():
            raise PredictionsError("the prior gives no class a share that the model has learned; give one")
        return cls(unsure_below, names, np.where(trained > 0, trained, 1.0), wanted)

    def for_prior(self, rows: Sequence[Prediction]) -> list[Prediction]:
        """Rows with the probabilities, and the answers, for the prior that was asked for."""
        return [self._for_prior(row) for row in rows]

    def _for_prior(self, row: Prediction) -> Prediction:
        if self.trained is None or self.wanted is None or not row.probabilities or row.error is not None:
            return row
        table = np.array([[max(row.probabilities[name], _LEAST) for name in self.names]])
        shares = adjusted(table, self.trained, self.wanted)[0]
        return replace(
            row,
            emotion=self.names[int(shares.argmax())],
            probabilities=dict(zip(self.names, map(float, shares), strict=True)),
        )

    def marked(self, answer: _Answer) -> _Answer:
        """A row or segment, with whether its emotion is unsure."""
        if self.unsure_below is None or answer.emotion is None:
            return answer
        share = (answer.probabilities or {}).get(answer.emotion, 0.0)
        return replace(answer, unsure=share < self.unsure_below)


def _emotions(model: Any) -> tuple[str, ...]:
    """The emotions that a model answers as classes."""
    if not isinstance(model, Model) or model.emotions is None:
        return ()
    return model.emotions.names
