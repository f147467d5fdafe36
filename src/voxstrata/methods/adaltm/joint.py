"""AdaLTM for words and emotions: coefficients learned from both tasks' losses, from separate corpora.

The paper learns its coefficients from emotions alone; nothing then keeps the words. Here a step is a batch of
one task, by the schedule that HarmoniFuse has: class-balanced cross-entropy of the emotion head on the
weighted sum of the layers, or CTC per character of the transcription head on the last layer. Both heads stand
on one encoder, W(l) = W_base(l) + sum_k lambda_k(l) dW_k(l) (AdaLTM, equation 4), or with coefficients per
task on two merges of the same base and vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from voxstrata.backbone.encoder import States
from voxstrata.batches.batch import Batch
from voxstrata.config.head import HeadOptions
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.losses import ctc_loss, soft_cross_entropy
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.per_clip import both_states, runs_once
from voxstrata.methods.adaltm.recipe import AdaLTMRates
from voxstrata.methods.encoder_models import JointLogits, MultitaskModel, TranscriptionModel
from voxstrata.methods.validation_notes import ValidationNotes
from voxstrata.predictions import Prediction
from voxstrata.system import ParameterGroup, System

EMOTIONS, WORDS = "ser", "asr"
TASKS = (EMOTIONS, WORDS)


class JointModel(MultitaskModel):
    """Emotion head and CTC head over one merged encoder, or each over its own merge of the same vectors.

    Args:
        encoder: a merged encoder; that of the emotion head.
        labels: the classes, in the order of the outputs.
        transcriber: characters and their linear map.
        options: form of layer sum and emotion head; None for the paper's.
        words_encoder: that of the CTC head, a twin of `encoder`; None: the same.
    """

    encoder: MergedBackbone

    def __init__(
        self,
        encoder: MergedBackbone,
        labels: LabelSet,
        transcriber: CTCHead,
        options: HeadOptions | None = None,
        words_encoder: MergedBackbone | None = None,
    ) -> None:
        super().__init__(encoder, labels, transcriber, options)
        self.words_encoder = words_encoder

    @property
    def merges_per_task(self) -> bool:
        """Whether coefficients are of each task."""
        return self.words_encoder is not None

    def merge_of(self, task: str) -> MergedBackbone:
        """The merged encoder that answers a task."""
        return self.words_encoder or self.encoder if task == WORDS else self.encoder

    def joint_logits(self, batch: Batch) -> JointLogits:
        """Both heads; over one run of the encoder, or with coefficients per task over two."""
        states, words = self._both_states(batch)
        return JointLogits(self.emotion_logits(states), self.transcriber(words.layers[-1]), states.lengths)

    def _both_states(self, batch: Batch) -> tuple[States, States]:
        """States for emotions and for words; a front end that no vector changes runs once."""
        if self.words_encoder is None:
            states: States = self.encoder(batch.waveforms, batch.lengths)
            return states, states
        front = batch.front
        if front is None and self.encoder.fixed_layers is not None:
            front = self.encoder.front(batch.waveforms, batch.lengths)
        if runs_once(self.encoder):
            return both_states(self.encoder, self.words_encoder, batch.waveforms, batch.lengths, front)
        return (
            self.encoder(batch.waveforms, batch.lengths, front),
            self.words_encoder(batch.waveforms, batch.lengths, front),
        )

    def emotion_logits(self, states: States) -> Tensor:
        """[B, C] of known states."""
        logits: Tensor = self.head(self.layer_sum(states.layers), states.mask())
        return logits


class JointAdaLTM(System):
    """A merged encoder with two heads under the losses of two tasks, a batch of one at a time.

    Args:
        model: its encoder is a `MergedBackbone`; the words' encoder too.
        class_weights: [C], see `losses.class_balanced_weights`.
        rates: learning rates.
        learn_from: tasks whose loss moves the coefficients; that of another moves its head only.
        weights: task -> weight of its loss; absent: 1.
        validation_clips: task -> clips of the validation, so that each task counts the same there; None: each
            clip does.
    """

    class_weights: Tensor

    def __init__(
        self,
        model: JointModel,
        class_weights: Tensor,
        rates: AdaLTMRates,
        *,
        learn_from: Collection[str] = TASKS,
        weights: Mapping[str, float] | None = None,
        validation_clips: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.rates = rates
        self.learn_from = tuple(learn_from)
        self.weights = {task: (weights or {}).get(task, 1.0) for task in TASKS}
        self.notes = ValidationNotes(validation_clips)
        self.register_buffer("class_weights", class_weights)
        for head, rate in ((model.transcriber, rates.asr_head), (model.head, rates.head)):
            head.requires_grad_(rate > 0)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over the batch's clips of its one task, times the task's weight, []."""
        task = _task_of(batch)
        return self.weights[task] * self._task_loss(batch, task)

    def validation_loss(self, batch: Batch) -> Tensor:
        """The loss; its mean over all clips is the mean over the tasks."""
        task = _task_of(batch)
        return self.notes.loss(task, self.loss(batch), len(batch))

    def predict(self, batch: Batch) -> list[Prediction]:
        """Answers for the batch's task, or for both where the batch names none."""
        if batch.task is None:
            return self.model.predict(batch)
        states = self._states(batch, _task_of(batch))
        if batch.task == EMOTIONS:
            return self.model.answers(batch, self.model.emotion_logits(states))
        texts = self.model.transcriber.transcribe(self.model.transcriber(states.layers[-1]), states.lengths)
        return TranscriptionModel.rows(batch, texts)

    def parameter_groups(self) -> list[ParameterGroup]:
        rates, model = self.rates, self.model
        groups = [
            ParameterGroup("head", tuple(model.head.parameters()), rates.head, rates.weight_decay),
            ParameterGroup("layer_weights", (model.layer_sum.logits,), rates.layer_weights),
            ParameterGroup(
                "ctc_head", tuple(model.transcriber.parameters()), rates.asr_head, rates.weight_decay
            ),
        ]
        for name, task in (("coefficients", EMOTIONS), ("coefficients_asr", WORDS)):
            merge = model.merge_of(task)
            own = task == EMOTIONS or model.words_encoder is not None
            if own and isinstance(merge.coefficients, nn.Parameter) and self._moves(task):
                groups.append(ParameterGroup(name, (merge.coefficients,), rates.coefficients))
        return [group for group in groups if group.lr > 0]

    def summary(self) -> dict[str, float]:
        """Coefficients per layer and vector (per task too, where they are), layer weights, loss per task."""
        numbers: dict[str, float] = {}
        merges = {"": self.model.encoder}
        if self.model.words_encoder is not None:
            merges["asr/"] = self.model.words_encoder
        for prefix, merge in merges.items():
            numbers |= {
                f"coefficient/{prefix}{name}/{layer}": value
                for layer, row in enumerate(merge.coefficients_by_layer())
                for name, value in zip(merge.vectors, row, strict=True)
            }
        weights = self.model.layer_sum.weights.detach().tolist()
        numbers |= {f"layer_weight/{layer}": value for layer, value in enumerate(weights, start=1)}
        return numbers | {f"loss/{name}": 0.0 for name in self.notes.clips} | self.notes.summary()

    @property
    def learns_coefficients(self) -> bool:
        """Whether states of a clip change from step to step."""
        return any(group.name.startswith("coefficients") for group in self.parameter_groups())

    def trainable_share(self) -> tuple[int, int]:
        """Trained parameters, and all that the merged model computes with (base, vectors left out)."""
        trained = sum(p.numel() for group in self.parameter_groups() for p in group.parameters)
        base = sum(p.numel() for p in self.model.encoder.base.parameters())
        return trained, trained + base

    def train(self, mode: bool = True) -> Self:
        """Going on with training forgets what the last validation noted; a head at rate 0 stays still."""
        if mode:
            self.notes.clear()
        super().train(mode)
        for head, rate in ((self.model.transcriber, self.rates.asr_head), (self.model.head, self.rates.head)):
            head.train(mode and rate > 0)
        return self

    def _moves(self, task: str) -> bool:
        """Whether a task's loss, or with shared coefficients any task's, moves its merge."""
        if self.model.words_encoder is None:
            return bool(self.learn_from)
        return task in self.learn_from

    def _states(self, batch: Batch, task: str) -> States:
        """The layers of the task's encoder, computed here or known."""
        if batch.states is not None and batch.frames is not None:
            return States(tuple(batch.states), batch.frames)
        with torch.set_grad_enabled(torch.is_grad_enabled() and task in self.learn_from):
            states: States = self.model.merge_of(task)(batch.waveforms, batch.lengths)
        return states

    def _task_loss(self, batch: Batch, task: str) -> Tensor:
        states = self._states(batch, task)
        if task == EMOTIONS:
            assert batch.emotion_targets is not None
            logits = self.model.emotion_logits(states)
            return soft_cross_entropy(logits, batch.emotion_targets, self.class_weights).mean()
        assert batch.tokens is not None and batch.token_lengths is not None
        characters = self.model.transcriber(states.layers[-1])
        return ctc_loss(characters, states.lengths, batch.tokens, batch.token_lengths).mean()


def _task_of(batch: Batch) -> str:
    if batch.task not in TASKS:
        raise ValueError(f"a batch is of task {batch.task!r}; {' or '.join(TASKS)} is needed")
    return batch.task
