"""AdaLTM: adaptive layer-wise task vector merging (arXiv 2603.25041).

W(l) = W_base(l) + sum_k lambda_k(l) dW_k(l) for l = 0..L (equation 4), then a softmax-weighted sum of
H(1..L) (equation 5) and an emotion head. Base and task vectors stay frozen; trained are the coefficients
lambda, the layer weights alpha and the head. Without vectors this is the frozen baseline, with static
granularity the static merge.
"""

from __future__ import annotations

from torch import Tensor, nn

from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.recipe import AdaLTMRates
from voxstrata.methods.encoder_models import ClipModel
from voxstrata.methods.frozen_encoder import FrozenEncoderSystem
from voxstrata.system import ParameterGroup


class AdaLTM(FrozenEncoderSystem):
    """A merged backbone, layer sum and head under class-balanced soft cross-entropy.

    Args:
        model: an `EmotionModel` (or a `DimensionModel`) whose encoder is a `MergedBackbone`.
        class_weights: [C], see `losses.class_balanced_weights`; None for equal ones, or no classes.
        rates: learning rates.
    """

    rates: AdaLTMRates

    def __init__(self, model: ClipModel, class_weights: Tensor | None, rates: AdaLTMRates) -> None:
        if not isinstance(model.encoder, MergedBackbone):
            raise TypeError("AdaLTM needs a model over a MergedBackbone")
        super().__init__(model, class_weights, rates)
        self.merged: MergedBackbone = model.encoder

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = super().parameter_groups()
        if isinstance(self.merged.coefficients, nn.Parameter) and self.rates.coefficients > 0:
            groups.append(
                ParameterGroup("coefficients", (self.merged.coefficients,), self.rates.coefficients)
            )
        return groups

    def summary(self) -> dict[str, float]:
        """Coefficients per layer and vector, and layer weights."""
        numbers = {
            f"coefficient/{name}/{layer}": value
            for layer, row in enumerate(self.merged.coefficients_by_layer())
            for name, value in zip(self.merged.vectors, row, strict=True)
        }
        weights = self.model.layer_sum.weights.detach().tolist()
        return numbers | {f"layer_weight/{layer}": value for layer, value in enumerate(weights, start=1)}

    def trainable_share(self) -> tuple[int, int]:
        """Trained parameters, and all that the merged model computes with (base, vectors left out)."""
        trained = sum(p.numel() for group in self.parameter_groups() for p in group.parameters)
        base = sum(p.numel() for p in self.merged.base.parameters())
        return trained, trained + base


def coefficient_reach(lr: float, steps: int, schedule: str = "constant") -> float:
    """How far a coefficient can move: AdamW steps are at most about lr long, so lr x steps.

    >>> round(coefficient_reach(1e-4, 1000), 3)
    0.1
    """
    share = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[schedule]
    return lr * steps * share
