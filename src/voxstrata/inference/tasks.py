"""Answers of a model with several tasks, each asked of its own clips: one row a clip."""

from __future__ import annotations

from torch import nn

from voxstrata.batches.processes import Processes
from voxstrata.batches.task_schedule import TasksInTurn
from voxstrata.inference.path import predict_together
from voxstrata.predictions import Prediction, one_row_each
from voxstrata.training.shares import Batches


def answers(model: nn.Module, batches: Batches, processes: Processes) -> list[Prediction]:
    """As `predict_together`; a clip that stands in the batches of several tasks has one row with all answers.

    Args:
        model: the same in all processes.
        batches: the same in all processes.
        processes: that make them together.

    Raises:
        PredictionsError: if two tasks have different clips of one id.
    """
    if not isinstance(batches, TasksInTurn):
        return predict_together(model, batches, processes)
    return one_row_each(
        row for source in batches.sources.values() for row in predict_together(model, source, processes)
    )
