"""Multi-task learning: emotions and words by one encoder, all of it trained on both losses at once.

AdaLTM (arXiv 2603.25041), table 1, part 1: what merging is compared with. L = L_SER + w L_CTC (w = 0.1 in
Cai et al., Interspeech 2021): class-balanced cross-entropy of an emotion head on the weighted sum of the
layers, and CTC per character of a linear map on the last layer. With w = 0 this is fine-tuning for emotions
alone, with the same optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import EmotionHeadOptions
from voxstrata.labels import LabelSet
from voxstrata.losses import ctc_loss, soft_cross_entropy
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.predictions import Prediction
from voxstrata.methods.baselines.finetune import FinetuneRates, encoder_groups
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.system import ParameterGroup, System

#: Which validation loss the best weights have: of both tasks, or of emotions alone.
Selection = Literal["joint", "emotion"]


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
        encoder: SpeechEncoder | MergedBackbone,
        labels: LabelSet,
        transcriber: CTCHead,
        options: EmotionHeadOptions | None = None,
    ) -> None:
        super().__init__(encoder, labels, options)
        self.transcriber = transcriber

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


class Multitask(System):
    """Encoder, layer sum, emotion head and CTC head under the joint loss.

    A clip brings the losses of what it has, and all are divided by the batch's clips: so a loss over many
    clips does not depend on how they are divided into batches, also where some have no class or no words.

    Args:
        model: encoder and both heads.
        class_weights: [C], see `losses.class_balanced_weights`.
        rates: learning rates; `head` is that of both heads.
        asr_weight: w; with 0 the CTC head is left as it is, and nothing is answered in words.
        selected_by: what the best weights are chosen by.
        freeze_front_end: whether the convolutional front end stays as it is.
    """

    class_weights: Tensor

    def __init__(
        self,
        model: MultitaskModel,
        class_weights: Tensor,
        rates: FinetuneRates,
        *,
        asr_weight: float,
        selected_by: Selection = "joint",
        freeze_front_end: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.rates = rates
        self.asr_weight = asr_weight
        self.selected_by = selected_by
        self.freeze_front_end = freeze_front_end
        self.register_buffer("class_weights", class_weights)
        self._validated: list[Tensor] = []

    def loss(self, batch: Batch) -> Tensor:
        if not self.asr_weight:
            return self._emotion_loss(self.model.logits(batch), batch)
        logits = self.model.joint_logits(batch)
        return self._emotion_loss(logits.emotion, batch) + self.asr_weight * _word_loss(logits, batch)

    def validation_loss(self, batch: Batch) -> Tensor:
        """The joint loss, or its emotion part; both parts and the share of blanks are kept for `summary`."""
        if not self.asr_weight:
            return self.loss(batch)
        logits = self.model.joint_logits(batch)
        emotion, words = self._emotion_loss(logits.emotion, batch), _word_loss(logits, batch)
        self._validated.append(
            torch.stack([emotion, words, logits.blank_share(), emotion.new_ones(())]) * len(batch)
        )
        return emotion if self.selected_by == "emotion" else emotion + self.asr_weight * words

    def predict(self, batch: Batch) -> list[Prediction]:
        if not self.asr_weight:
            return self.model.answers(batch, self.model.logits(batch))
        return self.model.predict(batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        rates, model = self.rates, self.model
        assert isinstance(model.encoder, SpeechEncoder)
        words = tuple(model.transcriber.parameters()) if self.asr_weight else ()
        groups = [
            *encoder_groups(model.encoder, rates, freeze_front_end=self.freeze_front_end),
            ParameterGroup("head", tuple(model.head.parameters()), rates.head, rates.weight_decay),
            ParameterGroup("ctc_head", words, rates.head, rates.weight_decay),
            ParameterGroup("layer_weights", tuple(model.layer_sum.parameters()), rates.layer_weights),
        ]
        return [group for group in groups if group.lr > 0 and group.parameters]

    def summary(self) -> dict[str, float]:
        """Both parts of the latest validation loss, and the share of blanks.

        A word error rate near 1 with little but blanks is a collapse of CTC, not a conflict of tasks.
        """
        if not self._validated:
            return {}
        *sums, clips = torch.stack(self._validated).sum(0).tolist()
        self._validated = []
        names = ("emotion_loss", "ctc_loss", "blank_share")
        return {name: value / clips for name, value in zip(names, sums, strict=True)}

    def _emotion_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum over the clips with a class (the targets of others are 0), divided by all clips."""
        assert batch.emotion_targets is not None
        return soft_cross_entropy(logits, batch.emotion_targets, self.class_weights).mean()


def _word_loss(logits: JointLogits, batch: Batch) -> Tensor:
    """Sum over the clips with words, divided by all clips."""
    assert batch.tokens is not None and batch.token_lengths is not None
    each = ctc_loss(logits.characters, logits.frames, batch.tokens, batch.token_lengths)
    return (each * (batch.token_lengths > 0)).mean()
