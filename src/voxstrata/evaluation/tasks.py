"""All tasks that a predictions file answers, and the counts behind their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from voxstrata.evaluation.answers import Answers, answers_to, class_answers
from voxstrata.evaluation.concordance import Ratings, rating_tally, ratings_in
from voxstrata.evaluation.tally import Tally, emotion_tally, transcript_tally
from voxstrata.predictions import Prediction

#: Clips of one task that have a reference.
Answered = Answers | Ratings


@dataclass(frozen=True)
class Tasks:
    """What a file answers; None and absent: it was not asked.

    Args:
        emotion: emotions.
        transcript: words.
        dimensions: ratings.
        classes: further classes by their field.
    """

    emotion: Answers | None
    transcript: Answers | None
    dimensions: Ratings | None
    classes: Mapping[str, Answers]

    @property
    def by_name(self) -> dict[str, Answered]:
        """Those answered: `emotion`, `transcript`, `dimensions` and the fields of further classes."""
        known = {"emotion": self.emotion, "transcript": self.transcript, "dimensions": self.dimensions}
        return {task: found for task, found in {**known, **self.classes}.items() if found is not None}

    @property
    def class_tasks(self) -> dict[str, Answers]:
        """Those whose answers are classes, by name."""
        return {**({} if self.emotion is None else {"emotion": self.emotion}), **self.classes}

    def without_gaps(self) -> Tasks:
        """The same without each task's clips that have no answer."""
        return Tasks(
            self.emotion and self.emotion.without(self.emotion.unanswered),
            self.transcript and self.transcript.without(self.transcript.unanswered),
            self.dimensions and self.dimensions.without(self.dimensions.unanswered),
            {field: found.without(found.unanswered) for field, found in self.classes.items()},
        )


def tasks_in(predictions: Sequence[Prediction]) -> Tasks:
    """Collects the clips of every task that a file answers."""
    return Tasks(
        emotion=answers_to("emotion", predictions),
        transcript=answers_to("transcript", predictions),
        dimensions=ratings_in(predictions),
        classes=class_answers(predictions),
    )


def task_tally(task: str, found: Answered, normalizer: str) -> Tally:
    """Counts of a task's clips; measures of further classes are named METRIC_FIELD, e.g. `uar_gender`.

    Raises:
        PredictionsError: if a clip lacks a rating, or the references hold no word.
    """
    if isinstance(found, Ratings):
        return rating_tally(found)
    if task == "transcript":
        return transcript_tally(found, normalizer)
    counts = emotion_tally(found)
    if task == "emotion":
        return counts
    return replace(counts, measures={f"{name}_{task}": one for name, one in counts.measures.items()})
