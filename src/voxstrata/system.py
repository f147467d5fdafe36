"""The seam: all that the training loop and the inference path know of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from voxstrata.batches.batch import Batch
from voxstrata.predictions import Prediction


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Args:
        name: shown in the journal, e.g. "coefficients".
        parameters: all of them require gradients.
        lr: peak learning rate.
        weight_decay: decoupled decay of AdamW.
        start_step: steps during which the group does not move yet.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr: float
    weight_decay: float = 0.0
    start_step: int = 0


class System(nn.Module, ABC):
    """A method: modules, a loss, predictions, and what is trained at which rate."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over the batch's clips, [] (the loop weights micro-batches by their clips)."""

    def validation_loss(self, batch: Batch) -> Tensor:
        """What the best weights are chosen by, [], called in eval mode without gradients; mostly the loss."""
        return self.loss(batch)

    @abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """One prediction per clip, in the batch's order; called in eval mode without gradients."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained, at which rates. Parameters in no group stay frozen."""

    def summary(self) -> dict[str, float]:
        """Numbers worth a place in the journal at each validation, e.g. coefficients per layer."""
        return {}
