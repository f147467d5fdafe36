"""Paired comparison of two systems on the same clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import block_diag, hstack

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.answers import (
    FEWEST_SPEAKERS,
    Answers,
    check_errors,
    check_shares,
    notes_on_classes,
    notes_on_speakers,
    notes_on_support,
)
from voxstrata.evaluation.concordance import Ratings
from voxstrata.evaluation.intervals import (
    by_clip,
    by_unit,
    check_resampling,
    cluster_weights,
    interval,
    resampled_sums,
    smallest_difference,
)
from voxstrata.evaluation.pairing import aligned
from voxstrata.evaluation.recognition import WordErrors, word_errors
from voxstrata.evaluation.repeats import require_same_clips
from voxstrata.evaluation.shown import comparison_html, differences_in_line
from voxstrata.evaluation.tally import Tally, check_labels, label_set, repeated
from voxstrata.evaluation.tasks import Answered, task_tally, tasks_in
from voxstrata.predictions import Prediction

NOTHING = (
    "nothing to compare: no task is answered in both files; each needs emotion with "
    "reference_emotion, transcript with reference_transcript, ratings or classes with theirs"
)

#: Answers of two systems to the same clips.
Pair = tuple[Answered, Answered]

#: Rows of two systems, in the order less, more, for each training (seed).
Repeats = Sequence[tuple[Sequence[Prediction], Sequence[Prediction]]]


@dataclass(frozen=True)
class Difference:
    """A metric of two systems on the same clips, or that difference under two conditions.

    Args:
        a: of the first system, or under the first condition.
        b: of the second.
        interval: 95 % interval of `b - a`, from the paired bootstrap.
        smallest: the smallest true difference these data would show with 80 % power at 5 %.
        unit: what was resampled, `speaker` or (where speakers are unknown or one) `clip`.
        clips: compared.
        speakers: known ones among them.
    """

    a: float
    b: float
    interval: tuple[float, float]
    smallest: float
    unit: str
    clips: int
    speakers: int

    @property
    def difference(self) -> float:
        """Second less first."""
        return self.b - self.a

    @property
    def shown(self) -> bool:
        """Whether there are speakers enough for a verdict, and the interval leaves zero out."""
        return not self.missing and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def missing(self) -> str:
        """What a verdict lacks; empty where it lacks nothing."""
        if self.speakers >= FEWEST_SPEAKERS:
            return ""
        found = (
            f"only {self.speakers} known speaker{'s' * (self.speakers > 1)}"
            if self.speakers
            else "no known speakers"
        )
        return f"no verdict with {found}: at least {FEWEST_SPEAKERS} are needed; add clips of others"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "interval": list(self.interval),
            "smallest": self.smallest,
            "shown": self.shown,
            "unit": self.unit,
            "clips": self.clips,
            "speakers": self.speakers,
            "missing": self.missing,
        }


@dataclass(frozen=True)
class Comparison:
    """Differences of two systems.

    Args:
        clips: compared.
        speakers: distinct names among them.
        normalizer: of transcripts.
        differences: metric -> difference.
        unanswered: clips that one system or both did not answer.
        errors: how those count: `wrong` or `leave-out`.
        warnings: plain sentences for whoever reads the numbers.
        word_errors: of both systems by kind; None where words are not compared.

    Example:
        ``vs.compare("runs/a", "runs/b").differences["uar"].interval``
    """

    clips: int
    speakers: int
    normalizer: str
    differences: dict[str, Difference]
    unanswered: int
    errors: str
    warnings: tuple[str, ...]
    word_errors: tuple[WordErrors, WordErrors] | None = None

    def __repr__(self) -> str:
        """One line: clips, and the difference of one metric a task with its interval."""
        return f"Comparison({differences_in_line(self)})"

    def _repr_html_(self) -> str:
        return comparison_html(self)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        kinds = zip("ab", (errors.as_dict() for errors in self.word_errors or ()), strict=False)
        return {
            "clips": self.clips,
            "speakers": self.speakers,
            "normalizer": self.normalizer,
            "differences": {name: value.as_dict() for name, value in self.differences.items()},
            **({"word_errors": dict(kinds)} if self.word_errors else {}),
            "unanswered": self.unanswered,
            "errors": self.errors,
            "warnings": list(self.warnings),
        }


def compare(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    *,
    normalizer: str = "basic",
    resamples: int = 2000,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    errors: str = "wrong",
) -> Comparison:
    """Compares two systems by resampling speakers, the same for both in every sample.

    Where one file lacks a reference or speaker that the other has, it is taken from there.

    Args:
        a: rows of the first system.
        b: rows of the second, for the same ids in any order.
        normalizer: of transcripts.
        resamples: bootstrap samples.
        seed: of the resampling.
        labels: emotion names allowed; default: all that occur.
        errors: clips without an answer count as `wrong`, or leave the comparison for both (`leave-out`).

    Raises:
        PredictionsError: if ids, references or speakers differ, or nothing can be compared.
    """
    check_resampling(resamples, seed)
    check_labels(labels)
    a, b = aligned(a, b, normalizer)
    check_errors(errors, a, "the first file")
    check_errors(errors, b, "the second file")
    check_shares(a, "the first file")
    check_shares(b, "the second file")
    pairs, notes = _pairs(a, b)
    notes += _notes_on_each(a, b, list(pairs), labels)
    unanswered = {clip for pair in pairs.values() for found in pair for clip in found.unanswered}
    if errors == "leave-out":
        pairs = {task: _both_answered(task, pair) for task, pair in pairs.items()}
    if "emotion" in pairs:
        label_set([found for found in pairs["emotion"] if isinstance(found, Answers)], labels)
    differences: dict[str, Difference] = {}
    for task, pair in pairs.items():
        differences |= _differences([_tallied(task, pair, normalizer)], [pair[0]], str, resamples, seed)
    if not differences:
        raise PredictionsError(NOTHING)
    compared = [pair[0] for pair in pairs.values()]
    speakers = dict(row for found in compared for row in zip(found.ids, found.speakers, strict=True))
    return Comparison(
        clips=len(speakers),
        speakers=len(set(speakers.values()) - {None}),
        normalizer=normalizer,
        differences=differences,
        unanswered=len(unanswered),
        errors=errors,
        warnings=(*notes, *notes_on_speakers({task: pair[0].speakers for task, pair in pairs.items()})),
        word_errors=_word_errors(pairs.get("transcript"), normalizer),
    )


def compare_repeats(
    *conditions: Repeats,
    normalizer: str = "basic",
    clip_of: Callable[[str], str] = str,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compares two systems, each trained several times (seeds); clips without an answer count as wrong.

    Under two conditions: the second difference less the first. A speaker who is heard under both is drawn
    for both at once: a difference in differences, paired by speaker.

    Args:
        conditions: one or two, which may have other clips; each training's rows of both systems.
        normalizer: of transcripts.
        clip_of: id -> the clip it answers; one that has several ids is drawn with all of them.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Metric -> difference, for what is answered in every training under every condition.

    Raises:
        PredictionsError: if ids, references or speakers of the systems differ, or the clips of two trainings.
    """
    found = [[_pairs(*aligned(*rows, normalizer))[0] for rows in repeats] for repeats in conditions]
    differences: dict[str, Difference] = {}
    for task in found[0][0]:
        if not all(task in pairs for repeats in found for pairs in repeats):
            continue
        tallied = []
        for repeats in found:
            require_same_clips([pairs[task][0] for pairs in repeats])
            of_each = [_tallied(task, pairs[task], normalizer) for pairs in repeats]
            tallied.append((repeated([a for a, _ in of_each]), repeated([b for _, b in of_each])))
        answered = [repeats[0][task][0] for repeats in found]
        differences |= _differences(tallied, answered, clip_of, resamples, seed)
    return differences


def _pairs(a: Sequence[Prediction], b: Sequence[Prediction]) -> tuple[dict[str, Pair], list[str]]:
    """What both files answer, and notes on what only one does."""
    first, second = tasks_in(a).by_name, tasks_in(b).by_name
    pairs = {task: (found, second[task]) for task, found in first.items() if task in second}
    notes = [
        f"{task} is not compared: only one of the files answers it"
        for task in {**first, **second}
        if task not in pairs
    ]
    for task, (found, other) in list(pairs.items()):
        if isinstance(found, Ratings) and isinstance(other, Ratings) and found.names != other.names:
            notes.append(f"{task} are not compared: {', '.join(found.names)} beside {', '.join(other.names)}")
            del pairs[task]
    return pairs, notes


def _notes_on_each(
    a: Sequence[Prediction], b: Sequence[Prediction], tasks: Sequence[str], labels: Sequence[str] | None
) -> list[str]:
    """Notes on both files' classes; what holds of both is told once."""
    of_each = []
    for rows in (a, b):
        classes = {task: found for task, found in tasks_in(rows).class_tasks.items() if task in tasks}
        of_each.append([*notes_on_classes(rows), *notes_on_support(classes, rows, labels)])
    both = [note for note in of_each[0] if note in of_each[1]]
    named = zip(("the first file", "the second file"), of_each, strict=True)
    return both + [f"{name}: {note}" for name, notes in named for note in notes if note not in both]


def _both_answered(task: str, pair: Pair) -> Pair:
    lost = [*pair[0].unanswered, *pair[1].unanswered]
    kept = pair[0].without(lost), pair[1].without(lost)
    if not len(kept[0]):
        raise PredictionsError(
            f"no clip has an answer for {task} in both files; count gaps as wrong (errors: wrong)"
        )
    return kept


def _word_errors(pair: Pair | None, normalizer: str) -> tuple[WordErrors, WordErrors] | None:
    if pair is None:
        return None
    a, b = (
        word_errors(found.references, found.answers, normalizer)
        for found in pair
        if isinstance(found, Answers)
    )
    return a, b


def _tallied(task: str, pair: Pair, normalizer: str) -> tuple[Tally, Tally]:
    return task_tally(task, pair[0], normalizer), task_tally(task, pair[1], normalizer)


def _differences(
    pairs: Sequence[tuple[Tally, Tally]],
    answered: Sequence[Answered],
    clip_of: Callable[[str], str],
    resamples: int,
    seed: int,
) -> dict[str, Difference]:
    """Second system less first; of two pairs, the second pair's difference less the first's."""
    table, unit = block_diag([hstack([a.table, b.table]) for a, b in pairs], format="csr"), "clip"
    clips = [f"{place} {clip_of(row)}" for place, found in enumerate(answered) for row in found.ids]
    speakers = [name for found in answered for name in found.known_speakers or ()]
    if len(speakers) == table.shape[0] and len(set(speakers)) > 1:
        table, unit = by_unit(table, speakers), "speaker"
    else:
        table = by_clip(table, clips)
    known = len({name for found in answered for name in found.speakers if name is not None})
    sums = resampled_sums(table, cluster_weights(table.shape[0], resamples, seed))
    tallies = [tally for pair in pairs for tally in pair]
    parts = np.split(sums, np.cumsum([tally.table.shape[1] for tally in tallies])[:-1], axis=1)
    differences = {}
    for name in tallies[0].measures:
        a, b = _folded([float(tally.measures[name](tally.total)) for tally in tallies])
        low, high = _folded([tally.measures[name](part) for tally, part in zip(tallies, parts, strict=True)])
        differences[name] = Difference(
            a=a,
            b=b,
            interval=interval(high - low),
            smallest=smallest_difference(high - low),
            unit=unit,
            clips=len(set(clips)),
            speakers=known,
        )
    return differences


def _folded(values: Iterable[Any]) -> list[Any]:
    """Two values; of four, the two differences."""
    found = list(values)
    return found if len(found) == 2 else [found[1] - found[0], found[3] - found[2]]
