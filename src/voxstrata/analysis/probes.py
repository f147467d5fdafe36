"""Linear probes over the layers of an encoder: how well a linear map reads an answer from each.

Alain and Bengio 2016 (arXiv 1610.01644) read classes from frozen layers by logistic regression; for layers of
speech encoders see Pasad et al. 2021 (arXiv 2107.04734). A probe tells what a linear map can find, not what
the encoder uses.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.answers import Answers
from voxstrata.evaluation.intervals import by_unit, cluster_weights, interval, resampled_sums
from voxstrata.evaluation.tally import Tally, emotion_tally

Array = NDArray[np.float64]
#: Called with (layers done, layers in all).
Advance = Callable[[int, int], None]

#: C of the logistic regression, from most to least regularised: dev examples choose, or else `FIXED_COST`.
COSTS = (0.001, 0.01, 0.1, 1.0)
FIXED_COST = 0.1
#: Alpha of the ridge regression, likewise.
PENALTIES = (1e4, 1e3, 1e2, 1e1)
FIXED_PENALTY = 1e2
MOST_STEPS = 1000


@dataclass(frozen=True, eq=False)
class Examples:
    """Clips or frames of one part of a corpus.

    Args:
        states: float32 [M, L, D], of these and perhaps other examples: never copied as a whole.
        answers: [N] names of classes, or numbers.
        units: [N] what is resampled as one: the speaker of each.
        rows: [N] which of the states are theirs; None: all, in this order.
    """

    states: NDArray[np.float32]
    answers: NDArray[Any]
    units: NDArray[np.str_]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.answers)

    def layer(self, index: int) -> Array:
        """States of one layer, [N, D]."""
        states = self.states[:, index] if self.rows is None else self.states[self.rows, index]
        return states.astype(np.float64)


@dataclass(frozen=True)
class LayerScore:
    """What was read from one layer.

    Args:
        value: UAR, accuracy or R^2 on the test examples.
        interval: 95 %, by resampling units; None where there is one unit only.
        strength: C of the logistic regression, or alpha of the ridge regression.
        converged: whether the regression came to its end within `MOST_STEPS`.
    """

    value: float
    interval: tuple[float, float] | None
    strength: float
    converged: bool = True


@dataclass(frozen=True)
class ProbeScores:
    """What was read from each layer.

    Args:
        measure: "uar", "accuracy" or "r2".
        chance: what is had without looking: one answer in as many as there are classes (UAR), always the
            most frequent class of the training examples (accuracy), their mean (R^2: 0).
        layers: L scores.
    """

    measure: str
    chance: float
    layers: tuple[LayerScore, ...]

    @property
    def best(self) -> int:
        """Index of the layer with the highest value; the lowest one of equals."""
        return max(range(len(self.layers)), key=lambda index: self.layers[index].value)


@dataclass(frozen=True)
class _Kind:
    """A form of regression: its measure, strengths, and how it is fitted and counted."""

    measure: str
    strengths: tuple[float, ...]
    fixed: float
    fit: Callable[[Array, NDArray[Any], float], Any]
    tally: Callable[[NDArray[Any], NDArray[Any]], Tally]


def probe_classes(
    train: Examples,
    test: Examples,
    dev: Examples | None = None,
    *,
    measure: str = "uar",
    resamples: int = 1000,
    seed: int = 0,
    advance: Advance | None = None,
) -> ProbeScores:
    """Multinomial logistic regression on the standardised states of each layer.

    Args:
        train: at least two classes.
        test: classes that `train` lacks count as missed.
        dev: chooses C by the same measure; None: `FIXED_COST`.
        measure: "uar" (classes weighted to the same total) or "accuracy" (not weighted).
        resamples: bootstrap samples.
        seed: of the resampling.
        advance: called after each layer.

    Raises:
        VoxstrataError: if the parts do not fit each other, or there are fewer than two classes to tell.
    """
    classes, counts = np.unique(train.answers, return_counts=True)
    if len(classes) < 2:
        raise VoxstrataError(f"the training examples have {len(classes)} class; a probe needs at least two")
    weighted = "balanced" if measure == "uar" else None

    def fit(rows: Array, answers: NDArray[Any], cost: float) -> Any:
        model = LogisticRegression(C=cost, class_weight=weighted, max_iter=MOST_STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(rows, answers)

    chance = (
        1 / len(classes) if measure == "uar" else float(np.mean(test.answers == classes[counts.argmax()]))
    )
    kind = _Kind(measure, COSTS, FIXED_COST, fit, _class_tally)
    return ProbeScores(measure, chance, _layers(kind, train, test, dev, resamples, seed, advance))


def probe_numbers(
    train: Examples,
    test: Examples,
    dev: Examples | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    advance: Advance | None = None,
) -> ProbeScores:
    """Ridge regression on the standardised states of each layer, measured by R^2.

    Args:
        train: with numbers as answers.
        test: likewise; R^2 is against their own mean.
        dev: chooses alpha; None: `FIXED_PENALTY`.
        resamples: bootstrap samples.
        seed: of the resampling.
        advance: called after each layer.

    Raises:
        VoxstrataError: if the parts do not fit each other, or the answers are all the same.
    """
    if len(test) and np.ptp(test.answers) == 0:
        raise VoxstrataError("the test examples have all the same number; R^2 needs numbers that differ")

    def fit(rows: Array, answers: NDArray[Any], penalty: float) -> Any:
        return Ridge(alpha=penalty).fit(rows, answers)

    kind = _Kind("r2", PENALTIES, FIXED_PENALTY, fit, _number_tally)
    return ProbeScores("r2", 0.0, _layers(kind, train, test, dev, resamples, seed, advance))


def r_squared(sums: Array) -> Array:
    """1 - squared errors / squares about the mean, from sums over examples.

    Args:
        sums: [..., 4]: examples, answers, their squares, squared errors.

    Returns:
        [...], NaN where the answers do not differ.

    >>> float(r_squared(np.array([2.0, 0.0, 2.0, 0.5])))
    0.75
    """
    count, total, squares, errors = np.moveaxis(sums, -1, 0)
    about_mean = squares - total**2 / np.maximum(count, 1)
    share = np.divide(errors, about_mean, out=np.full_like(errors, np.nan), where=about_mean > 0)
    return np.asarray(1 - share)


def _layers(
    kind: _Kind,
    train: Examples,
    test: Examples,
    dev: Examples | None,
    resamples: int,
    seed: int,
    advance: Advance | None,
) -> tuple[LayerScore, ...]:
    _check({"train": train, "test": test} | ({} if dev is None else {"dev": dev}))
    layers = train.states.shape[1]
    scores = []
    for layer in range(layers):
        scores.append(_layer(kind, layer, train, test, dev, resamples, seed))
        if advance is not None:
            advance(layer + 1, layers)
    return tuple(scores)


def _layer(
    kind: _Kind, layer: int, train: Examples, test: Examples, dev: Examples | None, resamples: int, seed: int
) -> LayerScore:
    rows = train.layer(layer)
    scaler = StandardScaler().fit(rows)
    rows = scaler.transform(rows)

    def tally_of(model: Any, part: Examples) -> Tally:
        return kind.tally(part.answers, model.predict(scaler.transform(part.layer(layer))))

    def value_on(model: Any, part: Examples) -> float:
        tally = tally_of(model, part)
        return float(tally.measures[kind.measure](tally.total))

    strengths = (kind.fixed,) if dev is None else kind.strengths
    models = {strength: kind.fit(rows, train.answers, strength) for strength in strengths}
    # Of equals the first, which is regularised most.
    strength = strengths[0] if dev is None else max(strengths, key=lambda s: value_on(models[s], dev))
    model = models[strength]
    tally = tally_of(model, test)
    measure = tally.measures[kind.measure]
    table = by_unit(tally.table, test.units.tolist())
    bounds = None
    if table.shape[0] > 1:
        sums = resampled_sums(table, cluster_weights(table.shape[0], resamples, seed))
        bounds = interval(measure(sums))
    converged = not isinstance(model, LogisticRegression) or bool(model.n_iter_.max() < MOST_STEPS)
    return LayerScore(float(measure(tally.total)), bounds, strength, converged)


def _class_tally(answers: NDArray[Any], given: NDArray[Any]) -> Tally:
    names = [str(index) for index in range(len(answers))]
    references, answered = map(str, answers.tolist()), map(str, given.tolist())
    return emotion_tally(Answers(tuple(names), (None,) * len(names), tuple(references), tuple(answered)))


def _number_tally(answers: NDArray[Any], given: NDArray[Any]) -> Tally:
    centred = answers - answers.mean()  # keeps the sums of squares exact
    rows = np.stack([np.ones_like(centred), centred, centred**2, (answers - given) ** 2], axis=1)
    return Tally(rows, {"r2": r_squared})


def _check(parts: Mapping[str, Examples]) -> None:
    shapes = {name: part.states.shape for name, part in parts.items()}
    if any(len(shape) != 3 for shape in shapes.values()) or len({shape[1:] for shape in shapes.values()}) > 1:
        stated = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise VoxstrataError(f"states do not fit each other: {stated}; [N, L, D] of one encoder are needed")
    for name, part in parts.items():
        states = len(part.states if part.rows is None else part.rows)
        if not states == len(part.answers) == len(part.units) or not len(part):
            raise VoxstrataError(
                f"{name} has {states} states, {len(part.answers)} answers and {len(part.units)} units; "
                "as many of each are needed, and at least one"
            )
