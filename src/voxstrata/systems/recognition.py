"""What a trained system answers with: an encoder and a head, for emotions or for words."""

from __future__ import annotations

from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import EmotionHeadOptions, PooledLinearHead
from voxstrata.heads.layer_sum import LayerSum
from voxstrata.labels import LabelSet
from voxstrata.merging.merged import MergedBackbone
from voxstrata.predictions import Prediction

Backbone = SpeechEncoder | MergedBackbone


class EmotionModel(nn.Module):
    """Encoder, weighted sum of its layers, head A.

    Args:
        encoder: a speech encoder, plain or merged.
        labels: the classes, in the order of the outputs.
        options: form of layer sum and head; None for the paper's.
    """

    def __init__(
        self, encoder: Backbone, labels: LabelSet, options: EmotionHeadOptions | None = None
    ) -> None:
        super().__init__()
        options = options or EmotionHeadOptions()
        self.encoder = encoder
        self.labels = labels
        self.options = options
        self.layer_sum = LayerSum(encoder.num_layers, normalize=options.normalize_layers)
        self.head = PooledLinearHead(
            encoder.hidden_size, len(labels), width=options.width, batch_norm=options.batch_norm
        )

    def logits(self, batch: Batch) -> Tensor:
        """Class logits [B, C]."""
        states = self.encoder(batch.waveforms, batch.lengths)
        return self.head(self.layer_sum(states.layers), states.mask())

    def predict(self, batch: Batch) -> list[Prediction]:
        """The most probable class of each clip, and the probabilities of all."""
        rows = self.logits(batch).float().softmax(-1).tolist()
        predictions = []
        for reference, row in zip(batch.references, rows, strict=True):
            probabilities = dict(zip(self.labels, row, strict=True))
            predictions.append(
                Prediction(
                    id=reference.id,
                    path=reference.path,
                    speaker=reference.speaker,
                    emotion=max(probabilities, key=probabilities.__getitem__),
                    probabilities=probabilities,
                    reference_emotion=reference.emotion,
                )
            )
        return predictions


class TranscriptionModel(nn.Module):
    """Encoder and CTC head on its last layer.

    Args:
        encoder: a speech encoder, plain or merged.
        head: characters and their linear map.
    """

    def __init__(self, encoder: Backbone, head: CTCHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Character logits [B, T, V] and valid frames [B]."""
        states = self.encoder(batch.waveforms, batch.lengths)
        return self.head(states.layers[-1]), states.lengths

    def predict(self, batch: Batch) -> list[Prediction]:
        """The greedy transcript of each clip."""
        texts = self.head.transcribe(*self.logits(batch))
        return [
            Prediction(
                id=reference.id,
                path=reference.path,
                speaker=reference.speaker,
                transcript=text,
                reference_transcript=reference.transcript,
            )
            for reference, text in zip(batch.references, texts, strict=True)
        ]
