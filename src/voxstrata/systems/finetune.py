"""Fine-tuning an encoder for emotions (SER) or for words (ASR) with differential learning rates.

AdaLTM section 2.1: the experts whose task vectors are merged later.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.losses import ctc_loss, soft_cross_entropy
from voxstrata.predictions import Prediction
from voxstrata.systems.recognition import EmotionModel, TranscriptionModel
from voxstrata.systems.system import ParameterGroup, System


@dataclass(frozen=True)
class FinetuneRates:
    """Peak learning rates; 0 freezes a part.

    Args:
        encoder: all of the encoder that is trained.
        head: the task head.
        layer_weights: the weights of the layer sum (SER).
        weight_decay: of encoder and head.
    """

    encoder: float = 1e-5
    head: float = 1e-4
    layer_weights: float = 1e-3
    weight_decay: float = 0.01


def trainable_encoder_parameters(encoder: nn.Module, *, freeze_front_end: bool) -> list[nn.Parameter]:
    """The encoder's parameters, without its convolutional front end if that stays frozen."""
    return [
        parameter
        for name, parameter in encoder.named_parameters()
        if not (freeze_front_end and ".feature_extractor." in f".{name}")
    ]


class _Finetune(System):
    """What both tasks share: the learning rates of encoder and head."""

    def __init__(
        self, model: EmotionModel | TranscriptionModel, rates: FinetuneRates, freeze_front_end: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.rates = rates
        self.freeze_front_end = freeze_front_end

    def predict(self, batch: Batch) -> list[Prediction]:
        return self.model.predict(batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        rates = self.rates
        assert isinstance(self.model.encoder, SpeechEncoder)
        encoder = trainable_encoder_parameters(self.model.encoder, freeze_front_end=self.freeze_front_end)
        groups = [
            ParameterGroup("encoder", tuple(encoder), rates.encoder, rates.weight_decay),
            ParameterGroup("head", tuple(self.model.head.parameters()), rates.head, rates.weight_decay),
        ]
        if isinstance(self.model, EmotionModel):
            weights = tuple(self.model.layer_sum.parameters())
            groups.append(ParameterGroup("layer_weights", weights, rates.layer_weights))
        return [group for group in groups if group.lr > 0]


class SERFinetune(_Finetune):
    """Emotion expert: encoder, layer sum and head A under class-balanced soft cross-entropy.

    Args:
        model: encoder, layer sum and head.
        class_weights: [C], see `losses.class_balanced_weights`.
        rates: learning rates.
        freeze_front_end: whether the convolutional front end stays as it is.
    """

    model: EmotionModel
    class_weights: Tensor

    def __init__(
        self,
        model: EmotionModel,
        class_weights: Tensor,
        rates: FinetuneRates,
        *,
        freeze_front_end: bool = True,
    ) -> None:
        super().__init__(model, rates, freeze_front_end)
        self.register_buffer("class_weights", class_weights)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.emotion_targets is not None
        logits = self.model.logits(batch)
        return soft_cross_entropy(logits, batch.emotion_targets, self.class_weights).mean()


class ASRFinetune(_Finetune):
    """Transcription expert: encoder and CTC head over characters.

    Args:
        model: encoder and CTC head.
        rates: learning rates.
        freeze_front_end: whether the convolutional front end stays as it is.
    """

    model: TranscriptionModel

    def __init__(
        self, model: TranscriptionModel, rates: FinetuneRates, *, freeze_front_end: bool = True
    ) -> None:
        super().__init__(model, rates, freeze_front_end)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.tokens is not None and batch.token_lengths is not None
        logits, lengths = self.model.logits(batch)
        return ctc_loss(logits, lengths, batch.tokens, batch.token_lengths).mean()
