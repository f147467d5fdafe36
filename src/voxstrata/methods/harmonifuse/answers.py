"""Rows of the predictions file from the answers of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from voxstrata.batches.batch import Reference
from voxstrata.heads.task import EMOTION, Task
from voxstrata.methods.calibration import Calibration, most_probable
from voxstrata.predictions import Prediction

#: The transcripts of B clips, or the logits [B, C] of the task's classes.
Answers = Sequence[str] | Tensor


def predictions(
    references: Sequence[Reference], answers: Sequence[tuple[Task, Answers]], calibration: Calibration
) -> list[Prediction]:
    """One row a clip with the answers of all given tasks, and the truth where it is known.

    Args:
        references: of B clips.
        answers: for each task B answers, in the clips' order.
        calibration: of the emotions.
    """
    rows: list[dict[str, Any]] = [
        {"id": reference.id, "path": reference.path, "speaker": reference.speaker} for reference in references
    ]
    for task, given in answers:
        for row, reference, fields in zip(rows, references, _fields(task, given, calibration), strict=True):
            if task.labels is None:
                row |= {**fields, "reference_transcript": reference.transcript}
            elif task.field == EMOTION:
                row |= {**fields, "reference_emotion": reference.emotion}
            else:
                row["classes"] = {**row.get("classes", {}), **fields}
                if (name := (reference.classes or {}).get(task.field)) is not None:
                    row["reference_classes"] = {**row.get("reference_classes", {}), task.field: name}
    return [Prediction(**row) for row in rows]


def _fields(task: Task, given: Answers, calibration: Calibration) -> list[dict[str, Any]]:
    """What a task answers for each clip."""
    if not isinstance(given, Tensor):
        return [{"transcript": text} for text in given]
    assert task.labels is not None
    names = task.labels.names
    if task.field != EMOTION:
        return [
            {task.field: dict(zip(names, row, strict=True))} for row in Calibration().probabilities(given)
        ]
    return [
        {"emotion": best, "probabilities": dict(zip(names, row, strict=True))}
        for best, row in zip(most_probable(names, given), calibration.probabilities(given), strict=True)
    ]
