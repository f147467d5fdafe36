"""Late fusion: one head over the concatenated features of several frozen experts.

What merging weights has to be compared with: the same experts, K encoders at inference instead of one. Each
expert has its own weighted sum of layers; trained are these weights and the head.
"""

from __future__ import annotations

from torch import Tensor

from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.frozen_encoder import FrozenEncoderSystem, HeadRates
from voxstrata.methods.encoder_models import ClipModel


class LateFusion(FrozenEncoderSystem):
    """Frozen experts, a layer sum of each, and a head under the model's loss.

    Args:
        model: its encoder is `ParallelEncoders`.
        class_weights: [C], see `losses.class_balanced_weights`; None for equal ones, or no classes.
        rates: learning rates.
    """

    def __init__(self, model: ClipModel, class_weights: Tensor | None, rates: HeadRates) -> None:
        if not isinstance(model.encoder, ParallelEncoders):
            raise TypeError("LateFusion needs a model over ParallelEncoders")
        super().__init__(model, class_weights, rates)
        self.experts: ParallelEncoders = model.encoder

    def summary(self) -> dict[str, float]:
        """Layer weights of each expert; those of one expert sum to 1."""
        weights = iter(self.model.layer_sum.weights.detach().tolist())
        return {
            f"expert_layer_weight/{name}/{layer}": next(weights)
            for name, count in zip(self.experts.names, self.experts.layer_counts, strict=True)
            for layer in range(1, count + 1)
        }
