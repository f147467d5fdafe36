"""Late fusion: one head over the concatenated features of several frozen experts.

What merging weights has to be compared with: the same experts, K encoders at inference instead of one. Each
expert has its own weighted sum of layers; trained are these weights and the head.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from voxstrata.batches.batch import Batch
from voxstrata.fusion.parallel_encoders import ParallelEncoders
from voxstrata.predictions import Prediction
from voxstrata.systems.recognition import ClipModel
from voxstrata.systems.system import ParameterGroup, System


@dataclass(frozen=True)
class LateFusionRates:
    """Peak learning rates, as of AdaLTM, and the head's weight decay."""

    layer_weights: float = 1e-4
    head: float = 1e-4
    weight_decay: float = 0.01


class LateFusion(System):
    """Frozen experts, a layer sum of each, and a head under the model's loss.

    Args:
        model: its encoder is `ParallelEncoders`.
        class_weights: [C], see `losses.class_balanced_weights`; None for equal ones, or no classes.
        rates: learning rates.
    """

    class_weights: Tensor | None

    def __init__(self, model: ClipModel, class_weights: Tensor | None, rates: LateFusionRates) -> None:
        super().__init__()
        if not isinstance(model.encoder, ParallelEncoders):
            raise TypeError("LateFusion needs a model over ParallelEncoders")
        self.model = model
        self.experts: ParallelEncoders = model.encoder
        self.rates = rates
        self.register_buffer("class_weights", class_weights)

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(batch, self.class_weights)

    def predict(self, batch: Batch) -> list[Prediction]:
        return self.model.predict(batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        rates = self.rates
        groups = [
            ParameterGroup("head", tuple(self.model.head.parameters()), rates.head, rates.weight_decay),
            ParameterGroup("layer_weights", (self.model.layer_sum.logits,), rates.layer_weights),
        ]
        return [group for group in groups if group.lr > 0]

    def summary(self) -> dict[str, float]:
        """Layer weights of each expert; those of one expert sum to 1."""
        weights = iter(self.model.layer_sum.weights.detach().tolist())
        return {
            f"expert_layer_weight/{name}/{layer}": next(weights)
            for name, count in zip(self.experts.names, self.experts.layer_counts, strict=True)
            for layer in range(1, count + 1)
        }
