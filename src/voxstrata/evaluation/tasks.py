"""All tasks that a predictions file answers, and the counts behind their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from voxstrata.evaluation.answers import Answers, answers_to, class_answers
from voxstrata.evaluation.concordance import Ratings, rating_tally, ratings_in
from voxstrata.evaluation.tally import Tally, emotion_tally, transcript_tally
from voxstrata.predictions import Prediction

#: Clips of one task that have a reference.
Answered = Answers | Ratings


def answered_tasks(predictions: Sequence[Prediction]) -> dict[str, Answered]:
    """What a file answers: `emotion`, `transcript`, `dimensions`, and further classes by their field."""
    found: dict[str, Answered | None] = {
        "emotion": answers_to("emotion", predictions),
        "transcript": answers_to("transcript", predictions),
        "dimensions": ratings_in(predictions),
        **class_answers(predictions),
    }
    return {task: answers for task, answers in found.items() if answers is not None}


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
