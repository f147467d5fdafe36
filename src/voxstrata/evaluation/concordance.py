"""Agreement of ratings with annotators' mean ratings: the concordance correlation coefficient (CCC).

Lin 1989, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45(1), equation 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.answers import first_few
from voxstrata.evaluation.intervals import Measure
from voxstrata.evaluation.tally import Tally
from voxstrata.labels import DIMENSIONS
from voxstrata.predictions import Prediction

Array = NDArray[np.float64]

#: Sums behind one coefficient: 1, x, y, x squared, y squared, x y.
_SUMS = 6


@dataclass(frozen=True)
class Ratings:
    """Clips with a reference in all dimensions that the file answers.

    Args:
        ids: of the clips, `[N]`; all following run beside it.
        speakers: None where a row names none.
        names: the K dimensions.
        references: `[N, K]`.
        answers: `[N, K]`, NaN where the system gave no answer.
    """

    ids: tuple[str, ...]
    speakers: tuple[str | None, ...]
    names: tuple[str, ...]
    references: Array
    answers: Array

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Ids of the clips that lack an answer."""
        lacking = np.flatnonzero(np.isnan(self.answers).any(axis=1))
        return tuple(self.ids[index] for index in lacking)

    @property
    def known_speakers(self) -> tuple[str, ...] | None:
        """A speaker for each clip, or None where any clip names none."""
        named = tuple(speaker for speaker in self.speakers if speaker is not None)
        return named if len(named) == len(self.speakers) else None

    def without(self, ids: Sequence[str]) -> Ratings:
        """The same without some clips."""
        dropped = set(ids)
        keep = [i for i, clip in enumerate(self.ids) if clip not in dropped]
        return Ratings(
            ids=tuple(self.ids[i] for i in keep),
            speakers=tuple(self.speakers[i] for i in keep),
            names=self.names,
            references=self.references[keep],
            answers=self.answers[keep],
        )


def ratings_in(predictions: Sequence[Prediction]) -> Ratings | None:
    """Collects the rated clips; None where no row has both a rating and its reference."""
    names = tuple(
        name
        for name in DIMENSIONS
        if any(_answer(p, name) is not None and _reference(p, name) is not None for p in predictions)
    )
    if not names:
        return None
    rows = [p for p in predictions if all(_reference(p, name) is not None for name in names)]
    return Ratings(
        ids=tuple(p.id for p in rows),
        speakers=tuple(p.speaker for p in rows),
        names=names,
        references=np.array([[_reference(p, name) for name in names] for p in rows], np.float64),
        answers=np.array([[_answer(p, name) for name in names] for p in rows], np.float64),
    )


def notes_on_ratings(predictions: Sequence[Prediction], found: Ratings) -> list[str]:
    """Plain statements about rated clips that cannot be scored."""
    partly = sum(any(_reference(p, name) is not None for name in found.names) for p in predictions) - len(
        found
    )
    if not partly:
        return []
    return [f"{partly} clips lack a reference in some of {', '.join(found.names)} and are not scored in any"]


def rating_tally(found: Ratings) -> Tally:
    """The sums of every clip behind the coefficients, and their mean as `ccc`.

    Raises:
        PredictionsError: if a clip lacks an answer: no number stands for a wrong one.
    """
    if lost := found.unanswered:
        raise PredictionsError(
            f"{len(lost)} clips lack a rating ({first_few(lost)}), and a gap cannot count as wrong; "
            "leave such clips out (errors: leave-out)"
        )
    # About the references' mean, so that the differences of sums lose no digits.
    x, y = (values - found.references.mean(axis=0) for values in (found.references, found.answers))
    table = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)

    def of_sums(sums: Array) -> Array:
        return concordance(sums.reshape(*sums.shape[:-1], len(found.names), _SUMS))

    def one(index: int) -> Measure:
        return lambda sums: of_sums(sums)[..., index]

    measures: dict[str, Measure] = {"ccc": lambda sums: of_sums(sums).mean(-1)}
    measures |= {f"ccc_{name}": one(index) for index, name in enumerate(found.names)}
    return Tally(csr_array(table.reshape(len(found), -1)), measures)


def concordance(sums: Array) -> Array:
    """CCC from sums over clips; 0 where neither references nor answers vary, NaN of no clips.

    Args:
        sums: `[..., 6]`: clips, x, y, x squared, y squared, x y.

    >>> x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])
    >>> float(concordance(np.array([3, x.sum(), y.sum(), x @ x, y @ y, x @ y])).round(4))
    0.5714
    """
    counts, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    clips = np.where(counts > 0, counts, np.nan)
    numerator = 2 * (xy - x * y / clips)
    denominator = xx + yy - (x * x + y * y) / clips + (x - y) ** 2 / clips
    ratio: Array = np.divide(numerator, denominator, out=np.asarray(0 * numerator), where=denominator > 1e-12)
    return ratio


def _reference(row: Prediction, name: str) -> float | None:
    value: float | None = getattr(row, f"reference_{name}")
    return value


def _answer(row: Prediction, name: str) -> float | None:
    value: float | None = getattr(row, name)
    return value if row.error is None else None
