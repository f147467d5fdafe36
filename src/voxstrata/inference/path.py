"""The one inference path: batches in, predictions out. Evaluation and `predict` share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from voxstrata.batches.batch import Batch
from voxstrata.batches.processes import Processes, interleaved
from voxstrata.batches.task_schedule import TasksInTurn
from voxstrata.errors import TrainingError
from voxstrata.predictions import Prediction, finite_or_error, one_row_each
from voxstrata.training.shares import Batches, divided


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter or buffer lies."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def fastest_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Batch]) -> Iterator[Prediction]:
    """Predictions of a model, clip by clip in the batches' order; an answer that is not finite is an error.

    Args:
        model: a system or a recognition model (has `predict(batch)`); put in eval mode, then back.
        batches: padded batches; a clip's answer does not depend on its neighbours.
    """
    training = model.training
    model.eval()
    device = device_of(model)
    try:
        for batch in batches:
            yield from map(finite_or_error, model.predict(batch.to(device)))  # type: ignore[operator]
    finally:
        model.train(training)


def predict_together(model: nn.Module, batches: Batches, processes: Processes) -> list[Prediction]:
    """Predictions for the first epoch, of which each process makes its share; in all of them, in one's order.

    Args:
        model: the same in all processes.
        batches: the same in all processes.
        processes: that make them together.

    Raises:
        TrainingError: if a clip is answered for twice.
    """
    own = [
        list(predict(model, [batch])) if len(batch) else []
        for batch in divided(batches, processes.share).epoch(0)
    ]
    shares = processes.gathered(own)
    rows = [row for parts in zip(*shares, strict=True) for row in interleaved(parts)]
    if len({row.id for row in rows}) < len(rows):
        raise TrainingError("a clip is answered for by two processes; all need the same corpora and recipe")
    return rows


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
