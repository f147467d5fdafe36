"""Scores of a predictions file: metrics with intervals by clip and by speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.answers import (
    Answers,
    check_errors,
    check_shares,
    notes_on,
    notes_on_classes,
    notes_on_speakers,
    notes_on_support,
)
from voxstrata.evaluation.calibration import CalibrationScores, calibration_of
from voxstrata.evaluation.classification import confusion_matrix
from voxstrata.evaluation.concordance import Ratings, notes_on_ratings, rating_tally
from voxstrata.evaluation.intervals import check_resampling
from voxstrata.evaluation.metrics import Metric, metrics_of
from voxstrata.evaluation.recognition import WordErrors, normalizer_named, word_errors
from voxstrata.evaluation.shown import metrics_in_line, scores_html, scores_in_line
from voxstrata.evaluation.tally import check_labels, emotion_tally, label_set, transcript_tally
from voxstrata.evaluation.tasks import Tasks, tasks_in
from voxstrata.predictions import Prediction

NOTHING = (
    "nothing to score: no row holds both an answer and its reference "
    "(emotion with reference_emotion, transcript with reference_transcript, arousal, valence and "
    "dominance with theirs, or classes with reference_classes)"
)


@dataclass(frozen=True)
class EmotionScores:
    """How well emotions were recognised.

    Args:
        labels: names in references and answers, or as given.
        metrics: `uar`, `precision`, `macro_f1`, `accuracy`; averages over the classes with support.
        recall: name -> recall, None where the references do not have the class.
        support: name -> reference clips.
        confusion: counts, rows = reference, columns = prediction; clips without an answer stand in no column.
        clips: scored.
        speakers: distinct names among them.
    """

    labels: tuple[str, ...]
    metrics: Mapping[str, Metric]
    recall: Mapping[str, float | None]
    support: Mapping[str, int]
    confusion: tuple[tuple[int, ...], ...]
    clips: int
    speakers: int

    def __repr__(self) -> str:
        """One line: clips and the metric that counts."""
        return f"EmotionScores({self.clips} clips; {metrics_in_line(self.metrics)})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clips": self.clips,
            "speakers": self.speakers,
            "labels": list(self.labels),
            **{name: metric.as_dict() for name, metric in self.metrics.items()},
            "recall": dict(self.recall),
            "support": dict(self.support),
            "confusion": [list(row) for row in self.confusion],
        }


@dataclass(frozen=True)
class TranscriptScores:
    """How well words were recognised.

    Args:
        normalizer: name of the text normaliser.
        metrics: `wer`, `cer`.
        errors: word errors by kind, and the words of the references.
        characters: in the references.
        clips: scored.
        speakers: distinct names among them.
    """

    normalizer: str
    metrics: Mapping[str, Metric]
    errors: WordErrors
    characters: int
    clips: int
    speakers: int

    def __repr__(self) -> str:
        """One line: clips and the metric that counts."""
        return f"TranscriptScores({self.clips} clips; {metrics_in_line(self.metrics)})"

    @property
    def words(self) -> int:
        """Words of the references."""
        return self.errors.words

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clips": self.clips,
            "speakers": self.speakers,
            "normalizer": self.normalizer,
            **{name: metric.as_dict() for name, metric in self.metrics.items()},
            **self.errors.as_dict(),
            "words": self.words,
            "characters": self.characters,
        }


@dataclass(frozen=True)
class DimensionScores:
    """How well arousal, valence and dominance were rated.

    Args:
        clips: scored.
        speakers: distinct names among them.
        metrics: `ccc_arousal`, `ccc_valence`, `ccc_dominance` as far as they were answered, and `ccc`, their
            mean; each in [-1, 1].
    """

    clips: int
    speakers: int
    metrics: Mapping[str, Metric]

    def __repr__(self) -> str:
        """One line: clips and the metric that counts."""
        return f"DimensionScores({self.clips} clips; {metrics_in_line(self.metrics)})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clips": self.clips,
            "speakers": self.speakers,
            **{name: metric.as_dict() for name, metric in self.metrics.items()},
        }


@dataclass(frozen=True)
class Scores:
    """Scores of one predictions file.

    Args:
        clips: scored, of any task; each task tells its own.
        speakers: distinct names among the scored clips.
        emotion: None where the file answers no emotions.
        transcript: None where the file answers no words.
        dimensions: None where the file answers no ratings.
        classes: of further class tasks, by their fields.
        calibration: how far the probabilities of emotions hold; None where there are none.
        unanswered: clips with a reference but no answer, a row with `error` among them.
        errors: how those count: `wrong` or `leave-out`.
        warnings: plain sentences for whoever reads the numbers.

    Example:
        ``scores = vs.evaluate("runs/ser")``; then ``scores.emotion.metrics["uar"].value`` and its 95 %
        intervals ``.iid`` (by clip) and ``.speaker``.
    """

    clips: int
    speakers: int
    emotion: EmotionScores | None
    transcript: TranscriptScores | None
    dimensions: DimensionScores | None
    classes: Mapping[str, EmotionScores]
    unanswered: int
    errors: str
    warnings: tuple[str, ...]
    calibration: CalibrationScores | None = None

    def __repr__(self) -> str:
        """One line: clips, and one metric a task with its interval."""
        return f"Scores({scores_in_line(self)})"

    def _repr_html_(self) -> str:
        return scores_html(self)

    @property
    def tasks(self) -> dict[str, EmotionScores | TranscriptScores | DimensionScores]:
        """Those scored: `emotion`, `transcript`, `dimensions` and the fields of further classes."""
        known = {"emotion": self.emotion, "transcript": self.transcript, "dimensions": self.dimensions}
        return {name: found for name, found in {**known, **self.classes}.items() if found is not None}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; an absent task is absent."""
        classes = {field: scores.as_dict() for field, scores in self.classes.items()}
        return {
            "clips": self.clips,
            "speakers": self.speakers,
            **{name: found.as_dict() for name, found in self.tasks.items() if name not in classes},
            **({"classes": classes} if classes else {}),
            **({} if self.calibration is None else {"calibration": self.calibration.as_dict()}),
            "unanswered": self.unanswered,
            "errors": self.errors,
            "warnings": list(self.warnings),
        }


def score(
    predictions: Sequence[Prediction],
    *,
    normalizer: str = "basic",
    resamples: int = 1000,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    errors: str = "wrong",
) -> Scores:
    """Scores predictions of any system.

    Args:
        predictions: rows; emotions, transcripts, ratings or several of these.
        normalizer: of transcripts, see `recognition.normalizer_named`.
        resamples: bootstrap samples of either kind.
        seed: of the resampling by speaker (the toolkit's own seeds are fixed).
        labels: names allowed, in the order to show; default: all that occur.
        errors: clips without an answer count as `wrong`, or are left out (`leave-out`).

    Raises:
        PredictionsError: if nothing can be scored, a label is outside `labels`, or a row without an answer
            cannot count as wrong (one without references, or one to be rated).
        VoxstrataError: if the normaliser is unknown.
    """
    check_resampling(resamples, seed)
    check_errors(errors, predictions)
    # Whether or not there is anything that they are for.
    normalizer_named(normalizer)
    check_labels(labels)
    check_shares(predictions)
    tasks = tasks_in(predictions)
    if not tasks.by_name:
        raise PredictionsError(NOTHING)
    unanswered = {clip for task in tasks.by_name.values() for clip in task.unanswered}
    if errors == "leave-out":
        tasks = tasks.without_gaps()
        if empty := [name for name, task in tasks.by_name.items() if not len(task)]:
            raise PredictionsError(
                f"no clip has a complete answer for {', '.join(empty)}, so none is left; count "
                "gaps as wrong (errors: wrong)"
            )
    emotion, transcript, rated = tasks.emotion, tasks.transcript, tasks.dimensions
    scored = {
        clip: speaker
        for task in tasks.by_name.values()
        for clip, speaker in zip(task.ids, task.speakers, strict=True)
    }
    return Scores(
        clips=len(scored),
        speakers=len(set(scored.values()) - {None}),
        emotion=_emotion_scores(emotion, labels, resamples, seed) if emotion else None,
        transcript=_transcript_scores(transcript, normalizer, resamples, seed) if transcript else None,
        dimensions=_dimension_scores(rated, resamples, seed) if rated else None,
        classes={f: _emotion_scores(task, None, resamples, seed) for f, task in tasks.classes.items()},
        unanswered=len(unanswered),
        errors=errors,
        warnings=warnings_of(predictions, tasks, labels),
        calibration=calibration_of(predictions, resamples=resamples, seed=seed) if emotion else None,
    )


def _emotion_scores(found: Answers, labels: Sequence[str] | None, resamples: int, seed: int) -> EmotionScores:
    names = label_set([found], labels)
    confusion = confusion_matrix(found.references, found.answers, names)
    support = {name: found.references.count(name) for name in names}
    return EmotionScores(
        labels=names,
        metrics=metrics_of(emotion_tally(found), found, resamples, seed),
        recall={
            name: float(confusion[i, i] / support[name]) if support[name] else None
            for i, name in enumerate(names)
        },
        support=support,
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        clips=len(found),
        speakers=_speakers(found),
    )


def _transcript_scores(found: Answers, normalizer: str, resamples: int, seed: int) -> TranscriptScores:
    tally = transcript_tally(found, normalizer)
    return TranscriptScores(
        normalizer=normalizer,
        metrics=metrics_of(tally, found, resamples, seed),
        errors=word_errors(found.references, found.answers, normalizer),
        characters=int(tally.total[3]),
        clips=len(found),
        speakers=_speakers(found),
    )


def warnings_of(
    predictions: Sequence[Prediction], tasks: Tasks, labels: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Plain sentences for whoever reads the numbers.

    Args:
        predictions: of one system.
        tasks: what of them is scored.
        labels: of emotions, where some are given.
    """
    return (
        *notes_on("emotion", predictions),
        *notes_on("transcript", predictions),
        *notes_on_classes(predictions),
        *notes_on_support(tasks.class_tasks, predictions, labels),
        *(notes_on_ratings(predictions, tasks.dimensions) if tasks.dimensions else []),
        *notes_on_speakers({name: task.speakers for name, task in tasks.by_name.items()}),
    )


def _dimension_scores(found: Ratings, resamples: int, seed: int) -> DimensionScores:
    return DimensionScores(
        len(found), _speakers(found), metrics_of(rating_tally(found), found, resamples, seed)
    )


def _speakers(found: Answers | Ratings) -> int:
    return len(set(found.speakers) - {None})
