"""What methods over frozen encoders share: a clip model whose layer weights and head are trained."""

from __future__ import annotations

from torch import Tensor

from voxstrata.batches.batch import Batch
from voxstrata.config.strict import Rate, Strict
from voxstrata.methods.encoder_models import ClipModel
from voxstrata.predictions import Prediction
from voxstrata.system import ParameterGroup, System


class HeadRates(Strict):
    """Peak learning rates (the AdaLTM paper states 1e-4 for all) and the head's weight decay.

    Args:
        layer_weights: learning rate of the weights of the layer sum.
        head: learning rate of the emotion head.
        weight_decay: of the head.
    """

    layer_weights: Rate = 1e-4
    head: Rate = 1e-4
    weight_decay: Rate = 0.01


class FrozenEncoderSystem(System):
    """Layer sum and head under the model's loss.

    Args:
        model: an `EmotionModel` or a `DimensionModel`.
        class_weights: [C], see `losses.class_balanced_weights`; None for equal ones, or no classes.
        rates: learning rates.
    """

    class_weights: Tensor | None
    rates: HeadRates

    def __init__(self, model: ClipModel, class_weights: Tensor | None, rates: HeadRates) -> None:
        super().__init__()
        self.model = model
        self.rates = rates
        self.register_buffer("class_weights", class_weights)

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(batch, self.class_weights)

    def predict(self, batch: Batch) -> list[Prediction]:
        return self.model.predict(batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        rates, head = self.rates, tuple(self.model.head.parameters())
        groups = [
            ParameterGroup("head", head, rates.head, rates.weight_decay),
            ParameterGroup("layer_weights", (self.model.layer_sum.logits,), rates.layer_weights),
        ]
        return [group for group in groups if group.lr > 0]
