"""Counts of every clip and the metrics that are functions of their sums: one shape for both tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import hstack

from voxstrata.errors import LabelError, PredictionsError
from voxstrata.evaluation import classification, recognition
from voxstrata.evaluation.answers import Answers
from voxstrata.evaluation.intervals import Measure
from voxstrata.labels import LabelSet

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """Counts of N clips.

    Args:
        table: sparse `[N, K]`.
        measures: name -> function of summed counts, `[..., K]` -> `[...]`.
    """

    table: Any
    measures: Mapping[str, Measure]

    @property
    def total(self) -> Array:
        """Counts of all clips `[K]`."""
        return np.asarray(self.table.sum(axis=0))


def emotion_tally(found: Answers) -> Tally:
    """Confusion counts of every clip; the classes are those of the references."""
    classes = tuple(sorted(set(found.references)))
    shape = (len(classes), len(classes) + 1)

    def of_counts(measure: Measure) -> Measure:
        return lambda sums: measure(sums.reshape(*sums.shape[:-1], *shape))

    return Tally(
        table=classification.confusion_rows(found.references, found.answers, classes),
        measures={name: of_counts(measure) for name, measure in classification.MEASURES.items()},
    )


def transcript_tally(found: Answers, normalizer: str) -> Tally:
    """Errors and lengths of every clip.

    Raises:
        PredictionsError: if the normalised references hold no word at all.
    """
    tally = Tally(
        table=recognition.error_rows(found.references, found.answers, normalizer),
        measures=recognition.MEASURES,
    )
    if not tally.total[1]:
        raise PredictionsError(
            f"the reference transcripts hold no word after the normaliser {normalizer!r}; "
            "without reference words there is no word error rate"
        )
    return tally


def repeated(tallies: Sequence[Tally]) -> Tally:
    """Counts of the same clips under several trainings (seeds): each measure is the mean over the trainings.

    Drawing a clip or a speaker draws it under all of them: a further training is no further clip.

    Args:
        tallies: one a training, their rows in the same order.
    """
    if len(tallies) == 1:
        return tallies[0]
    ends = np.cumsum([tally.table.shape[1] for tally in tallies])[:-1]

    def mean(name: str) -> Measure:
        def measure(sums: Array) -> Array:
            parts = zip(tallies, np.split(sums, ends, axis=-1), strict=True)
            return np.asarray(np.mean([tally.measures[name](part) for tally, part in parts], axis=0))

        return measure

    table = hstack([tally.table for tally in tallies], format="csr")
    return Tally(table, {name: mean(name) for name in tallies[0].measures})


def check_labels(labels: Sequence[str] | None) -> None:
    """Checks that names are a label set, where some are given.

    Raises:
        LabelError: if they are none.
    """
    if isinstance(labels, str):
        raise LabelError(f"labels are a list of names; found the text {labels!r}: give {labels.split(',')}")
    if labels is None:
        return
    if len(set(labels)) < 2:
        raise LabelError(
            f"labels are {', '.join(labels) or 'empty'}; give two or more, or leave labels out to take "
            "all that occur"
        )
    if twice := sorted({name for name in labels if list(labels).count(name) > 1}):
        raise LabelError(f"labels name {', '.join(twice)} twice; name each once")
    LabelSet(tuple(labels))


def label_set(answers: Sequence[Answers], labels: Sequence[str] | None) -> tuple[str, ...]:
    """The names to show: those given, or all in references and answers, in alphabetical order.

    Raises:
        PredictionsError: if names are given and a reference or an answer is not among them.
        LabelError: if the given names are not a label set.
    """
    used = {name: clip for found in answers for name, clip in _names(found)}
    if labels is None:
        return tuple(sorted(used))
    strange = sorted(set(used) - set(labels))
    if strange:
        found_names = ", ".join(f"{name!r} (clip {used[name]!r})" for name in strange[:3])
        raise PredictionsError(
            f"labels outside the given set: {found_names}; allowed are {', '.join(labels)}; "
            "add them to the labels, or leave labels out to take all that occur"
        )
    return LabelSet(tuple(labels)).names


def _names(found: Answers) -> list[tuple[str, str]]:
    rows = zip(found.ids, found.references, found.answers, strict=True)
    return [
        (name, clip) for clip, reference, answer in rows for name in (reference, answer) if name is not None
    ]
