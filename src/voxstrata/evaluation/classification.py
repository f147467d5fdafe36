"""Metrics of a classifier, as functions of its confusion counts.

Counts are `[..., C, C + 1]`: rows are the C classes that occur in the references, the first C columns the
same classes as predicted, the last column every other answer (a name no reference has, or none at all).
All averages run over the classes with support, so a class that a bootstrap sample lost counts neither way.
Where every class has support they equal scikit-learn's macro averages with `zero_division=0`
(AdaLTM, arXiv 2603.25041, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Array = NDArray[np.float64]


def confusion_rows(references: Sequence[str], answers: Sequence[str | None], classes: Sequence[str]) -> Any:
    """One-hot confusion counts of every clip.

    Args:
        references: true names, each in `classes`.
        answers: predicted names; None and names outside `classes` fall into the last column.
        classes: C names.

    Returns:
        Sparse `[clips, C * (C + 1)]`, one 1 a row.
    """
    index = {name: i for i, name in enumerate(classes)}
    width = len(classes) + 1
    pairs = zip(references, answers, strict=True)
    codes = [
        index[true] * width + (width - 1 if answer is None else index.get(answer, width - 1))
        for true, answer in pairs
    ]
    clips = np.arange(len(codes) + 1)
    return csr_array((np.ones(len(codes)), np.array(codes), clips), shape=(len(codes), len(classes) * width))


def recalls(confusion: Array) -> Array:
    """Recall of each class.

    Args:
        confusion: counts `[..., C, C + 1]`.

    Returns:
        `[..., C]`, NaN for a class without support.
    """
    return _ratio(_hits(confusion), confusion.sum(-1), empty=np.nan)


def uar(confusion: Array) -> Array:
    """Unweighted average recall over the classes with support.

    Args:
        confusion: counts `[..., C, C + 1]`.

    >>> float(uar(np.array([[3.0, 1.0, 0.0], [1.0, 0.0, 1.0]])))
    0.375
    """
    return _mean_with_support(_ratio(_hits(confusion), confusion.sum(-1)), confusion)


def precision(confusion: Array) -> Array:
    """Macro precision over the classes with support; a class never predicted counts as 0.

    Args:
        confusion: counts `[..., C, C + 1]`.
    """
    return _mean_with_support(_ratio(_hits(confusion), _predicted(confusion)), confusion)


def macro_f1(confusion: Array) -> Array:
    """Mean of the classes' F1 over the classes with support.

    Args:
        confusion: counts `[..., C, C + 1]`.
    """
    both = confusion.sum(-1) + _predicted(confusion)
    return _mean_with_support(_ratio(2 * _hits(confusion), both), confusion)


def accuracy(confusion: Array) -> Array:
    """Share of right answers (weighted accuracy, in the words of some emotion papers).

    Args:
        confusion: counts `[..., C, C + 1]`.
    """
    return _ratio(_hits(confusion).sum(-1), confusion.sum((-2, -1)), empty=np.nan)


#: Name in `metrics.json` -> function of confusion counts.
MEASURES: dict[str, Callable[[Array], Array]] = {
    "uar": uar,
    "precision": precision,
    "macro_f1": macro_f1,
    "accuracy": accuracy,
}


def confusion_matrix(
    references: Sequence[str], answers: Sequence[str | None], labels: Sequence[str]
) -> NDArray[np.int64]:
    """Counts over all names, for reading.

    Args:
        references: true names.
        answers: predicted names; None (no answer) stands in no column, so a row may sum to less than its
            support.
        labels: all names in references and answers.

    Returns:
        `[C, C]`, rows = reference, columns = prediction.
    """
    index = {name: i for i, name in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for reference, answer in zip(references, answers, strict=True):
        if answer is not None:
            matrix[index[reference], index[answer]] += 1
    return matrix


def _hits(confusion: Array) -> Array:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _predicted(confusion: Array) -> Array:
    predicted: Array = confusion[..., :-1].sum(-2)
    return predicted


def _ratio(numerator: Array, denominator: Array, *, empty: float = 0.0) -> Array:
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), empty)
    ratio: Array = np.divide(numerator, denominator, out=out, where=denominator > 0)
    return ratio


def _mean_with_support(values: Array, confusion: Array) -> Array:
    # without support there are no hits, so such a class's value is 0 and adds nothing
    present = (confusion.sum(-1) > 0).sum(-1)
    return _ratio(values.sum(-1), present.astype(np.float64), empty=np.nan)
