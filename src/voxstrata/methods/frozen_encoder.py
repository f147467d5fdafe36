"""What methods over frozen encoders share: layers that are kept, and layer weights and a head that learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.fingerprint import fingerprint, settings
from voxstrata.batches.batch import Batch
from voxstrata.batches.cached import KeptStates
from voxstrata.config.strict import Rate, Strict
from voxstrata.errors import CheckpointError
from voxstrata.heads.emotion import masked_mean
from voxstrata.heads.layer_sum import LayerSum
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import ClipBackbone, ClipModel
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


@dataclass(frozen=True)
class FrozenLayers(KeptStates):
    """All L layers of a frozen encoder.

    Head A is linear before its mean over frames, and nothing random lies before that mean: of a clip it needs
    the layers' means over its frames, since mean(W h + b) = W mean(h) + b. Any other head, and a language
    model, gets all frames.

    Args:
        encoder: whose layers.
        form: "pooled" for the means over a clip's frames, [1, L, D], or "frames", [T, L, D].
        layer_sum: the layers are kept as it weighs them; None: as they come.

    Raises:
        CheckpointError: if the encoder is trained.
    """

    encoder: ClipBackbone
    form: Literal["pooled", "frames"]
    layer_sum: LayerSum | None = None

    def __post_init__(self) -> None:
        if any(parameter.requires_grad for parameter in self.encoder.parameters()):
            raise CheckpointError("the encoder is trained, so its states change; leave the cache out")

    @classmethod
    def of(cls, model: ClipModel) -> FrozenLayers:
        """What this model's head needs: pooled layers for head A."""
        pooled = getattr(model.head, "pools_first", False)
        return cls(model.encoder, "pooled" if pooled else "frames", model.layer_sum)

    @property
    def name(self) -> str:
        return "the encoder"

    @property
    def row(self) -> tuple[int, ...]:
        return self.encoder.num_layers, self.encoder.hidden_size

    def frames(self, samples: Tensor) -> Tensor:
        return torch.ones_like(samples) if self.form == "pooled" else self.encoder.frame_lengths(samples)

    def computed(self, batch: Batch) -> list[Tensor]:
        states = self.encoder(batch.waveforms, batch.lengths)
        layers = ((self.layer_sum.prepared(h) if self.layer_sum else h).float() for h in states.layers)
        if self.form == "pooled":
            mask = states.mask()
            return list(torch.stack([masked_mean(layer, mask) for layer in layers], dim=1).unsqueeze(1))
        whole, counts = list(layers), states.lengths.tolist()
        return [torch.stack([layer[row, :n] for layer in whole], dim=1) for row, n in enumerate(counts)]

    def added(self, batch: Batch, clips: Sequence[Tensor]) -> Batch:
        states = pad_sequence(list(clips), batch_first=True).permute(2, 0, 1, 3).contiguous()
        return replace(batch, states=states, frames=torch.tensor([len(clip) for clip in clips]))

    def identity(self) -> str:
        encoders = self.encoder.encoders if isinstance(self.encoder, ParallelEncoders) else (self.encoder,)
        plain = [encoder if isinstance(encoder, SpeechEncoder) else encoder.base for encoder in encoders]
        weights = [fingerprint(encoder.weights()) for encoder in encoders]
        normalized = self.layer_sum is not None and self.layer_sum.normalize
        return f"{self.form} {normalized} {' '.join(weights)} {' '.join(map(settings, plain))}"
