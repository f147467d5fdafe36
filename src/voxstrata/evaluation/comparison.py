"""Paired comparison of two systems on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.sparse import hstack

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.answers import Answers, Task, answers_to, check_errors, notes_on_speakers
from voxstrata.evaluation.intervals import (
    by_unit,
    cluster_weights,
    interval,
    resampled_sums,
    smallest_difference,
)
from voxstrata.evaluation.pairing import aligned
from voxstrata.evaluation.tally import Tally, emotion_tally, label_set, transcript_tally
from voxstrata.predictions import Prediction

NOTHING = (
    "nothing to compare: no task is answered in both files; each needs emotion with "
    "reference_emotion, or transcript with reference_transcript"
)

#: Answers of two systems to the same clips.
Pair = tuple[Answers, Answers]


@dataclass(frozen=True)
class Difference:
    """A metric of two systems on the same clips.

    Args:
        a: of the first.
        b: of the second.
        interval: 95 % interval of `b - a`, from the paired bootstrap.
        smallest: the smallest true difference these data would show with 80 % power at 5 %.
        unit: what was resampled, `speaker` or (where speakers are unknown or one) `clip`.
        clips: compared.
    """

    a: float
    b: float
    interval: tuple[float, float]
    smallest: float
    unit: str
    clips: int

    @property
    def difference(self) -> float:
        """Second less first."""
        return self.b - self.a

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval[0] > 0 or self.interval[1] < 0

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
    """

    clips: int
    speakers: int
    normalizer: str
    differences: dict[str, Difference]
    unanswered: int
    errors: str
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clips": self.clips,
            "speakers": self.speakers,
            "normalizer": self.normalizer,
            "differences": {name: value.as_dict() for name, value in self.differences.items()},
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
    if resamples < 2:
        raise PredictionsError(f"an interval needs at least 2 resamples; found {resamples}")
    a, b = aligned(a, b, normalizer)
    check_errors(errors, a, "the first file")
    check_errors(errors, b, "the second file")
    emotion, transcript = _pair("emotion", a, b), _pair("transcript", a, b)
    pairs = [pair for pair in (emotion, transcript) if pair is not None]
    unanswered = {clip for pair in pairs for found in pair for clip in found.unanswered}
    if errors == "leave-out":
        emotion = _both_answered("emotion", emotion)
        transcript = _both_answered("transcript", transcript)
    differences: dict[str, Difference] = {}
    if emotion is not None:
        label_set(emotion, labels)
        tallies = emotion_tally(emotion[0]), emotion_tally(emotion[1])
        differences |= _differences(*tallies, emotion[0], resamples, seed)
    if transcript is not None:
        tallies = transcript_tally(transcript[0], normalizer), transcript_tally(transcript[1], normalizer)
        differences |= _differences(*tallies, transcript[0], resamples, seed)
    if not differences:
        raise PredictionsError(NOTHING)
    compared = [pair[0] for pair in (emotion, transcript) if pair is not None]
    speakers = dict(row for found in compared for row in zip(found.ids, found.speakers, strict=True))
    return Comparison(
        clips=len(speakers),
        speakers=len(set(speakers.values()) - {None}),
        normalizer=normalizer,
        differences=differences,
        unanswered=len(unanswered),
        errors=errors,
        warnings=(*_notes_on_tasks(a, b), *notes_on_speakers(list(speakers.values()))),
    )


def _pair(task: Task, a: Sequence[Prediction], b: Sequence[Prediction]) -> Pair | None:
    first, second = answers_to(task, a), answers_to(task, b)
    return None if first is None or second is None else (first, second)


def _both_answered(task: Task, pair: Pair | None) -> Pair | None:
    if pair is None:
        return None
    lost = [*pair[0].unanswered, *pair[1].unanswered]
    kept = pair[0].without(lost), pair[1].without(lost)
    if not len(kept[0]):
        raise PredictionsError(
            f"no clip has an answer for {task} in both files; count gaps as wrong with --errors wrong"
        )
    return kept


def _differences(a: Tally, b: Tally, found: Answers, resamples: int, seed: int) -> dict[str, Difference]:
    table, unit = hstack([a.table, b.table], format="csr"), "clip"
    if found.known_speakers is not None and len(set(found.known_speakers)) > 1:
        table, unit = by_unit(table, found.known_speakers), "speaker"
    sums = resampled_sums(table, cluster_weights(table.shape[0], resamples, seed))
    split = a.table.shape[1]
    differences = {}
    for name, measure in a.measures.items():
        values = measure(sums[:, split:]) - measure(sums[:, :split])
        differences[name] = Difference(
            a=float(measure(a.total)),
            b=float(measure(b.total)),
            interval=interval(values),
            smallest=smallest_difference(values),
            unit=unit,
            clips=len(found),
        )
    return differences


def _notes_on_tasks(a: Sequence[Prediction], b: Sequence[Prediction]) -> list[str]:
    tasks: tuple[Task, Task] = ("emotion", "transcript")
    return [
        f"{task} is not compared: only one of the files answers it"
        for task in tasks
        if (answers_to(task, a) is None) != (answers_to(task, b) is None)
    ]
