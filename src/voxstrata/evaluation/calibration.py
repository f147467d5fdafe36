"""Whether probabilities can be trusted: temperature, expected calibration error, Brier score, reliability.

Guo et al., "On calibration of modern neural networks", ICML 2017 (arXiv 1706.04599): a model's logits divided
by one number, the temperature, chosen by the likelihood of clips that it was not trained on. The order of the
classes stays, so labels never change. Logits differ from log probabilities by a constant a clip, and so
probabilities are all that is needed: they go to the power 1 / temperature, and are normalised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from voxstrata.evaluation.answers import Answers
from voxstrata.evaluation.intervals import by_unit, cluster_weights, interval, resampled_sums
from voxstrata.evaluation.metrics import Metric, metrics_of
from voxstrata.evaluation.tally import Tally
from voxstrata.predictions import Prediction

Array = NDArray[np.float64]

#: Bins of equal width over the confidence, as in the paper.
BINS = 15
#: Fewer clips say too little about one number.
FEWEST_CLIPS = 30
#: No temperature lies outside: what would is a sign of something else.
_LOWEST, _HIGHEST = 0.05, 20.0
#: Stands for a probability that was rounded to zero.
_LEAST = 1e-30


@dataclass(frozen=True)
class Confidences:
    """How sure the answers of N clips are, and whether they are right.

    Args:
        answers: reference and answer of each clip.
        confidence: `[N]` probability of the answer.
        right: `[N]` 1 where the answer is the reference.
        squares: `[N]` sum over the classes of (probability - 1 if it is the reference)^2.
    """

    answers: Answers
    confidence: Array
    right: Array
    squares: Array

    @property
    def bins(self) -> NDArray[np.int64]:
        """The bin of each clip `[N]`, from 0: bin b has confidences in (b / `BINS`, (b + 1) / `BINS`]."""
        return np.clip(np.ceil(self.confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


@dataclass(frozen=True)
class CalibrationScores:
    """How far probabilities hold.

    Args:
        clips: scored: those with emotion, probabilities and a reference.
        metrics: `ece`, expected calibration error in [0, 1]; `brier`, Brier score in [0, 2].
    """

    clips: int
    metrics: Mapping[str, Metric]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"clips": self.clips, **{name: metric.as_dict() for name, metric in self.metrics.items()}}


@dataclass(frozen=True)
class Bin:
    """Clips of about one confidence.

    Args:
        confidence: their mean confidence.
        accuracy: share of them that is right.
        clips: how many they are.
        band: 95 % interval of the accuracy, speakers resampled; None where they are unknown or one only.
    """

    confidence: float
    accuracy: float
    clips: int
    band: tuple[float, float] | None


@dataclass(frozen=True)
class Temperature:
    """A temperature and where it comes from.

    Args:
        value: 1 leaves probabilities as they are.
        about: in words: what it was fitted on, or why there is none.
        clips: that it was fitted on; 0: none.
    """

    value: float
    about: str
    clips: int = 0


def confidences_in(predictions: Sequence[Prediction]) -> Confidences | None:
    """The rows with emotion, probabilities and a reference; None where there is none."""
    rows = [p for p in predictions if p.error is None and p.emotion and p.probabilities]
    rows = [p for p in rows if p.reference_emotion is not None]
    if not rows:
        return None
    squares = []
    for row in rows:
        shares = dict(row.probabilities or {})
        shares[str(row.reference_emotion)] = shares.get(str(row.reference_emotion), 0.0) - 1.0
        squares.append(sum(share * share for share in shares.values()))
    answers = Answers(
        ids=tuple(row.id for row in rows),
        speakers=tuple(row.speaker for row in rows),
        references=tuple(str(row.reference_emotion) for row in rows),
        answers=tuple(row.emotion for row in rows),
    )
    confidence = [(row.probabilities or {}).get(str(row.emotion), 0.0) for row in rows]
    right = [float(row.emotion == row.reference_emotion) for row in rows]
    return Confidences(answers, np.array(confidence), np.array(right), np.array(squares))


def calibration_tally(found: Confidences) -> Tally:
    """Sums behind the expected calibration error (`ece`) and the Brier score (`brier`).

    ECE is the mean over the clips of |accuracy - confidence| of their bin (the paper's equation 3), the Brier
    score the mean of the squares, from 0 to 2 (Brier 1950).
    """
    clips = len(found.confidence)
    values = np.stack([np.ones(clips), found.confidence, found.right])
    columns = found.bins + BINS * np.arange(3)[:, None]
    places = np.concatenate([columns, np.full((1, clips), 3 * BINS)]).T.ravel()
    numbers = np.concatenate([values, found.squares[None]]).T.ravel()
    ends = 4 * np.arange(clips + 1)
    table = csr_array((numbers, places, ends), shape=(clips, 3 * BINS + 1))
    return Tally(table, {"ece": _ece, "brier": _brier})


def _parts(sums: Array) -> tuple[Array, Array, Array]:
    """Clips, summed confidence and right answers of each bin, each `[..., BINS]`."""
    return sums[..., :BINS], sums[..., BINS : 2 * BINS], sums[..., 2 * BINS : 3 * BINS]


def _ece(sums: Array) -> Array:
    clips, confidence, right = _parts(sums)
    return np.asarray(np.abs(right - confidence).sum(-1) / clips.sum(-1))


def _brier(sums: Array) -> Array:
    return np.asarray(sums[..., -1] / _parts(sums)[0].sum(-1))


def calibration_of(
    predictions: Sequence[Prediction], *, resamples: int = 1000, seed: int = 0
) -> CalibrationScores | None:
    """Expected calibration error and Brier score with 95 % intervals.

    Args:
        predictions: of one system.
        resamples: bootstrap samples, by clip and by speaker.
        seed: of the resampling by speaker.

    Returns:
        None where no row has emotion, probabilities and reference.
    """
    found = confidences_in(predictions)
    if found is None:
        return None
    metrics = metrics_of(calibration_tally(found), found.answers, resamples, seed)
    return CalibrationScores(len(found.confidence), metrics)


def about_temperature(predictions: Sequence[Prediction], temperature: float) -> dict[str, Any]:
    """What `metrics.json` tells beside the calibration: the temperature, and the scores `before` it.

    Args:
        predictions: with the temperature in their probabilities.
        temperature: of the model.
    """
    told: dict[str, Any] = {"temperature": temperature}
    if temperature != 1:
        before = calibration_of([tempered(row, 1 / temperature) for row in predictions])
        told |= {} if before is None else {"before": before.as_dict()}
    return told


def reliability(found: Confidences, *, resamples: int = 1000, seed: int = 0) -> list[Bin | None]:
    """The bins of a reliability diagram, from low to high confidence; None: a bin without clips.

    Args:
        found: confidences of clips.
        resamples: bootstrap samples by speaker, for the bands.
        seed: of them.
    """
    tally, speakers = calibration_tally(found), found.answers.known_speakers
    clips, confidence, right = _parts(tally.total)
    drawn = None
    if speakers is not None and len(set(speakers)) > 1:
        table = by_unit(tally.table, speakers)
        drawn = resampled_sums(table, cluster_weights(table.shape[0], resamples, seed))
    bins: list[Bin | None] = []
    for k in range(BINS):
        if not clips[k]:
            bins.append(None)
            continue
        band = None
        if drawn is not None:
            of_bin = drawn[:, k]
            band = interval(drawn[of_bin > 0, 2 * BINS + k] / of_bin[of_bin > 0])
        bins.append(Bin(confidence[k] / clips[k], right[k] / clips[k], int(clips[k]), band))
    return bins


def tempered(row: Prediction, temperature: float) -> Prediction:
    """The row with its probabilities to the power 1 / temperature, normalised; its label stays.

    >>> tempered(Prediction("a", probabilities={"x": 0.8, "y": 0.2}), 2.0).probabilities
    {'x': 0.6666666666666666, 'y': 0.3333333333333333}
    """
    if not row.probabilities or temperature == 1:
        return row
    top = max(row.probabilities.values())
    powers = {name: (share / top) ** (1 / temperature) for name, share in row.probabilities.items()}
    total = sum(powers.values())
    return replace(row, probabilities={name: power / total for name, power in powers.items()})


def fit_temperature(predictions: Sequence[Prediction]) -> Temperature:
    """The temperature under which the references are most likely.

    Args:
        predictions: of clips that were not trained on, their probabilities as the model gives them. Rows
            without a reference, or with one that is none of the model's classes, are left out.
    """
    rows = [
        (p.probabilities, str(p.reference_emotion))
        for p in predictions
        if p.error is None and p.probabilities and p.reference_emotion in p.probabilities
    ]
    if len(rows) < FEWEST_CLIPS:
        return Temperature(
            1.0, f"no temperature: dev has {len(rows)} clips with an emotion, and it takes {FEWEST_CLIPS}"
        )
    if not any(shares[true] < max(shares.values()) for shares, true in rows):
        return Temperature(1.0, f"no temperature: all {len(rows)} answers on dev are right, so none is best")
    value = _most_likely(rows)
    return Temperature(value, f"temperature {value:.3f}, fitted on {len(rows)} dev clips", len(rows))


def _most_likely(rows: Sequence[tuple[Mapping[str, float], str]]) -> float:
    """Where the slope of the mean log likelihood over 1 / temperature, which falls, is zero."""
    names = list(rows[0][0])
    logs = np.log(np.array([[max(shares.get(name, 0.0), _LEAST) for name in names] for shares, _ in rows]))
    true = logs[np.arange(len(rows)), [names.index(label) for _, label in rows]]

    def slope(power: float) -> float:
        scaled = power * (logs - logs.max(axis=1, keepdims=True))
        shares = np.exp(scaled)
        shares /= shares.sum(axis=1, keepdims=True)
        return float((true - (shares * logs).sum(axis=1)).mean())

    low, high = math.log(1 / _HIGHEST), math.log(1 / _LOWEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp(-(low + high) / 2)
