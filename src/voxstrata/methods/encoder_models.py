"""What a trained system answers with: an encoder and a head, for emotions, for ratings or for words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.batches.batch import Batch
from voxstrata.config.head import HeadOptions
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import clip_head
from voxstrata.heads.layer_sum import ConcatenatedSums, LayerSum
from voxstrata.heads.whole_batch import WholeBatch, all_rows
from voxstrata.labels import DIMENSIONS, LabelSet
from voxstrata.losses import ccc_loss, soft_cross_entropy
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.calibration import Calibration, most_probable
from voxstrata.predictions import Prediction

Backbone = SpeechEncoder | MergedBackbone
ClipBackbone = Backbone | ParallelEncoders


class Model(nn.Module, ABC):
    """A trained model: an encoder, and what answers a batch from its states.

    Attributes:
        encoder: a speech encoder, plain or merged; or several side by side.
        calibration: how logits of emotions become probabilities; fitted at the end of a training.
    """

    encoder: ClipBackbone
    calibration: Calibration = Calibration()

    @property
    def emotions(self) -> LabelSet | None:
        """The emotions that it answers as classes; None without."""
        return None

    @abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """One row a clip."""


class ClipModel(Model):
    """Encoder, weighted sum of its layers, and a head with C outputs a clip.

    Where a batch brings the encoder's states, or the front of a merged one, that is not run again.

    Args:
        encoder: a speech encoder, plain or merged; or several side by side, each with a sum of its own.
        outputs: C.
        options: form of layer sum and head; None for the paper's.
    """

    def __init__(self, encoder: ClipBackbone, outputs: int, options: HeadOptions | None = None) -> None:
        super().__init__()
        options = options or HeadOptions()
        self.encoder = encoder
        self.options = options
        #: What the decoder of a base that has one listens to: "plain" for the base, or "merged".
        self.words = "plain"
        if isinstance(encoder, ParallelEncoders):
            parts = encoder.layer_counts
            self.layer_sum: LayerSum = ConcatenatedSums(parts, normalize=options.normalize_layers)
        else:
            self.layer_sum = LayerSum(encoder.num_layers, normalize=options.normalize_layers)
        self.head = clip_head(encoder.hidden_size * self.layer_sum.sums, outputs, options)

    def logits(self, batch: Batch) -> Tensor:
        """What the head gives, [B, C]."""
        if batch.states is not None and batch.frames is not None:
            known = States(tuple(batch.states), batch.frames)
            frames, mask = self.layer_sum.weighted(known.layers), known.mask()
        else:
            front = () if batch.front is None else (batch.front,)
            states = self.encoder(batch.waveforms, batch.lengths, *front)
            frames, mask = self.layer_sum(states.layers), states.mask()
        logits: Tensor = self.head(frames, mask)
        return logits

    @abstractmethod
    def loss(self, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
        """Loss over the batch's clips, [].

        Args:
            batch: with the targets that the model learns.
            class_weights: [C], of classes; None for equal ones.
        """


class EmotionModel(ClipModel):
    """A clip model whose outputs are logits of classes.

    Args:
        encoder: a speech encoder, plain or merged.
        labels: the classes, in the order of the outputs.
        options: form of layer sum and head; None for the paper's.
    """

    def __init__(self, encoder: ClipBackbone, labels: LabelSet, options: HeadOptions | None = None) -> None:
        super().__init__(encoder, len(labels), options)
        self.labels = labels

    @property
    def emotions(self) -> LabelSet:
        """Its classes."""
        return self.labels

    def loss(self, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
        """Class-balanced soft cross-entropy, mean over the clips."""
        assert batch.emotion_targets is not None
        return soft_cross_entropy(self.logits(batch), batch.emotion_targets, class_weights).mean()

    def predict(self, batch: Batch) -> list[Prediction]:
        """The most probable class of each clip, and the probabilities of all."""
        return self.answers(batch, self.logits(batch))

    def answers(self, batch: Batch, logits: Tensor) -> list[Prediction]:
        """The predictions that logits [B, C] are."""
        names = most_probable(self.labels.names, logits)
        predictions = []
        for reference, row, name in zip(
            batch.references, self.calibration.probabilities(logits), names, strict=True
        ):
            predictions.append(
                Prediction(
                    id=reference.id,
                    path=reference.path,
                    speaker=reference.speaker,
                    emotion=name,
                    probabilities=dict(zip(self.labels, row, strict=True)),
                    reference_emotion=reference.emotion,
                )
            )
        return predictions


class DimensionModel(ClipModel, WholeBatch):
    """A clip model whose outputs are arousal, valence and dominance, on the corpus's scale.

    Args:
        encoder: a speech encoder, plain or merged.
        options: form of layer sum and head; None for head A.
        centre: [3] mean rating of the training clips; the head learns the distance from it.
        spread: [3] their standard deviation, the head's unit.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        encoder: ClipBackbone,
        options: HeadOptions | None = None,
        *,
        centre: Tensor | None = None,
        spread: Tensor | None = None,
    ) -> None:
        super().__init__(encoder, len(DIMENSIONS), options)
        self.register_buffer("centre", torch.zeros(len(DIMENSIONS)) if centre is None else centre)
        self.register_buffer("spread", torch.ones(len(DIMENSIONS)) if spread is None else spread)

    def ratings(self, batch: Batch) -> Tensor:
        """Arousal, valence and dominance of each clip, [B, 3]."""
        return self.centre + self.spread * self.logits(batch).float()

    def loss(self, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
        """1 - CCC over the clips of the whole batch, mean over the dimensions."""
        assert batch.ratings is not None
        answers = all_rows(self.ratings(batch), self.group)
        return ccc_loss(answers, all_rows(batch.ratings, self.group)).mean()

    def predict(self, batch: Batch) -> list[Prediction]:
        """The ratings of each clip."""
        predictions = []
        for reference, row in zip(batch.references, self.ratings(batch).tolist(), strict=True):
            fields: dict[str, Any] = dict(zip(DIMENSIONS, row, strict=True))
            fields |= {f"reference_{name}": value for name, value in (reference.ratings or {}).items()}
            predictions.append(
                Prediction(id=reference.id, path=reference.path, speaker=reference.speaker, **fields)
            )
        return predictions


class TranscriptionModel(Model):
    """Encoder and CTC head on its last layer.

    Args:
        encoder: a speech encoder, plain or merged.
        head: characters and their linear map.
    """

    encoder: Backbone

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
        return self.rows(batch, self.head.transcribe(*self.logits(batch)))

    @staticmethod
    def rows(batch: Batch, texts: Iterable[str]) -> list[Prediction]:
        """The predictions that the transcripts of a batch's clips are."""
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


@dataclass(frozen=True)
class JointLogits:
    """What both heads give.

    Args:
        emotion: [B, C].
        characters: [B, T, V].
        frames: [B] valid frames.
    """

    emotion: Tensor
    characters: Tensor
    frames: Tensor

    def blank_share(self) -> Tensor:
        """Share of a clip's frames whose most probable character is the blank, mean over clips, [].

        Near 1: CTC has collapsed.
        """
        valid = torch.arange(self.characters.shape[1], device=self.frames.device) < self.frames.unsqueeze(1)
        return (((self.characters.argmax(-1) == 0) & valid).sum(1) / self.frames).mean()


class MultitaskModel(EmotionModel):
    """An emotion model with a CTC head beside it, on the encoder's last layer.

    Args:
        encoder: a speech encoder, plain or merged.
        labels: the classes, in the order of the outputs.
        transcriber: characters and their linear map.
        options: form of layer sum and emotion head; None for the paper's.
    """

    def __init__(
        self,
        encoder: Backbone,
        labels: LabelSet,
        transcriber: CTCHead,
        options: HeadOptions | None = None,
    ) -> None:
        super().__init__(encoder, labels, options)
        self.transcriber = transcriber

    @property
    def merges_per_task(self) -> bool:
        """Whether each task has a merged encoder of its own."""
        return False

    def joint_logits(self, batch: Batch) -> JointLogits:
        """Both heads over one run of the encoder."""
        states = self.encoder(batch.waveforms, batch.lengths)
        emotion = self.head(self.layer_sum(states.layers), states.mask())
        return JointLogits(emotion, self.transcriber(states.layers[-1]), states.lengths)

    def predict(self, batch: Batch) -> list[Prediction]:
        """The most probable class of each clip, the probabilities of all, and the greedy transcript."""
        logits = self.joint_logits(batch)
        texts = self.transcriber.transcribe(logits.characters, logits.frames)
        rows = zip(self.answers(batch, logits.emotion), batch.references, texts, strict=True)
        return [
            replace(row, transcript=text, reference_transcript=reference.transcript)
            for row, reference, text in rows
        ]
