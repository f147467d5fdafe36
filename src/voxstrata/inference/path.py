"""The one inference path: batches in, predictions out. Evaluation and `predict` share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from voxstrata.batches.batch import Batch
from voxstrata.predictions import Prediction


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter or buffer lies."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Batch]) -> Iterator[Prediction]:
    """Predictions of a model, clip by clip in the batches' order.

    Args:
        model: a system or a recognition model (has `predict(batch)`); put in eval mode, then back.
        batches: padded batches; a clip's answer does not depend on its neighbours.
    """
    training = model.training
    model.eval()
    device = device_of(model)
    try:
        for batch in batches:
            yield from model.predict(batch.to(device))  # type: ignore[operator]
    finally:
        model.train(training)
