"""Rows of the predictions file from the answers of several tasks."""

from __future__ import annotations

from collections.abc import Sequence

from voxstrata.batches.batch import Reference
from voxstrata.heads.task import EMOTION, Task
from voxstrata.predictions import Prediction

#: Of each clip the transcript, or the probabilities of the task's classes.
Answers = Sequence[str] | Sequence[Sequence[float]]


def predictions(references: Sequence[Reference], answers: Sequence[tuple[Task, Answers]]) -> list[Prediction]:
    """One row a clip with the answers of all given tasks, and the truth where it is known.

    Args:
        references: of B clips.
        answers: for each task B answers, in the clips' order.
    """
    return [
        _row(reference, [(task, given[index]) for task, given in answers])
        for index, reference in enumerate(references)
    ]


def _row(reference: Reference, answers: Sequence[tuple[Task, str | Sequence[float]]]) -> Prediction:
    fields: dict[str, object] = {
        "id": reference.id,
        "path": reference.path,
        "speaker": reference.speaker,
    }
    classes: dict[str, dict[str, float]] = {}
    for task, answer in answers:
        if isinstance(answer, str):
            fields |= {"transcript": answer, "reference_transcript": reference.transcript}
            continue
        assert task.labels is not None
        probabilities = dict(zip(task.labels, answer, strict=True))
        if task.field == EMOTION:
            best = max(probabilities, key=probabilities.__getitem__)
            fields |= {"emotion": best, "probabilities": probabilities}
            fields["reference_emotion"] = reference.emotion
        else:
            classes[task.field] = probabilities
    known = {field: name for field, name in (reference.classes or {}).items() if field in classes}
    return Prediction(**fields, classes=classes or None, reference_classes=known or None)  # type: ignore[arg-type]
