"""Rows of the predictions file from the answers of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from voxstrata.batches.batch import Reference
from voxstrata.heads.tasks import EMOTION, Task
from voxstrata.predictions import Prediction

#: Of each clip the transcript, or the probabilities of the task's classes.
Answers = Sequence[str] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class ClassesPrediction(Prediction):
    """A row with answers of class tasks beside emotion; a reader of predictions passes them over.

    Args:
        classes: field -> class name -> probability, e.g. {"gender": {"female": .9, "male": .1}}.
        reference_classes: field -> true class name.
    """

    classes: Mapping[str, Mapping[str, float]] | None = None
    reference_classes: Mapping[str, str] | None = None


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
    if not classes:
        return Prediction(**fields)  # type: ignore[arg-type]
    known = {field: name for field, name in (reference.classes or {}).items() if field in classes}
    return ClassesPrediction(**fields, classes=classes, reference_classes=known or None)  # type: ignore[arg-type]
