"""HarmoniFuse: component-selective, prompt-adaptive multi-task speech language model (arXiv 2509.18570).

Speech encoder -> gated encoder fusion -> connector -> decoder-only language model over
`[speech][task prompt][text]` -> prompt-adaptive dynamic layer fusion -> head of the task. A batch is of one
task, from a corpus of that task alone. What the paper leaves open stands in `options`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import States
from voxstrata.batches.batch import Batch
from voxstrata.errors import RecipeError
from voxstrata.heads.task import EMOTION, Task, check_tasks
from voxstrata.labels import LabelSet
from voxstrata.losses import soft_cross_entropy, token_loss
from voxstrata.methods.encoder_models import Backbone, Model
from voxstrata.methods.harmonifuse.answers import Answers, predictions
from voxstrata.methods.harmonifuse.gated_encoder import GatedEncoderFusion
from voxstrata.methods.harmonifuse.lm.connector import Connector
from voxstrata.methods.harmonifuse.lm.decoding import decode
from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel
from voxstrata.methods.harmonifuse.lm.sequences import join, valid
from voxstrata.methods.harmonifuse.lm.tokenizers import TextTokenizer
from voxstrata.methods.harmonifuse.options import HarmoniFuseOptions
from voxstrata.methods.harmonifuse.prompt_adaptive import Fused, PromptAdaptiveFusion
from voxstrata.methods.harmonifuse.targets import class_targets, task_of, text_targets, with_end
from voxstrata.methods.harmonifuse.task_heads import TaskHeads
from voxstrata.methods.harmonifuse.training import open_encoder, parameter_groups
from voxstrata.methods.validation_notes import ValidationNotes
from voxstrata.predictions import Prediction
from voxstrata.system import ParameterGroup, System

#: Values [B, N, D] and lengths [B] of a part of the language model's input.
Part = tuple[Tensor, Tensor]


class HarmoniFuse(System, Model):
    """One model for several tasks.

    Args:
        encoder: plain or merged; frozen here but for what the options train.
        lm: the language model; its states in the form `options.state_norm`.
        tokenizer: of the language model.
        tasks: at least one; at most one of them transcribes.
        options: all that the paper leaves open.
        class_weights: task -> [C], see `losses.class_balanced_weights`; absent: equal.
        validation_clips: task -> clips of the validation, so that each task counts the same there; None: each
            clip does.

    Raises:
        RecipeError: if tasks or options do not fit each other or the encoder.
        LabelError: if classes are written as words, and one cannot be written with the tokenizer.
    """

    encoder: Backbone

    def __init__(
        self,
        encoder: Backbone,
        lm: LanguageModel,
        tokenizer: TextTokenizer,
        tasks: Sequence[Task],
        options: HarmoniFuseOptions,
        class_weights: Mapping[str, Tensor] | None = None,
        validation_clips: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = check_tasks(tasks)
        self.options = options
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.encoder_parameters = open_encoder(encoder, options)
        names = list(self.tasks)
        gate, fusion, bridge = options.encoder_fusion, options.layer_fusion, options.connector
        self.encoder_fusion = GatedEncoderFusion(
            encoder.num_layers,
            names,
            mode=gate.mode,
            layer=gate.layer,
            per_task=gate.per_task,
            normalize=gate.normalize,
        )
        self.connector = Connector(encoder.hidden_size, lm.size, width=bridge.width, stack=bridge.stack)
        self.lm = lm
        self.prompts = nn.ParameterDict({name: _prompt(lm, options.prompt_tokens) for name in names})
        self.layer_fusion = PromptAdaptiveFusion(
            lm.num_layers,
            lm.size,
            names,
            scores=fusion.scores,
            width=fusion.width,
            last_start=options.last_start,
        )
        by_words = options.class_answers == "words"
        classes = {name: task.labels for name, task in self.tasks.items() if task.labels is not None}
        self.heads = TaskHeads(
            lm.size,
            classes={} if by_words else {name: len(labels) for name, labels in classes.items()},
            tokens=tokenizer.size if by_words or len(classes) < len(names) else None,
            output=lm.output,
        )
        self.label_words = {
            name: [torch.tensor(tokenizer.encode(label)) for label in labels]
            for name, labels in (classes.items() if by_words else ())
        }
        for name, weights in (class_weights or {}).items():
            # Of training only: no part of what is saved.
            self.register_buffer(f"class_weights_{name}", weights, persistent=False)
        self.notes = ValidationNotes(validation_clips)

    @property
    def emotions(self) -> LabelSet | None:
        """The classes of the task that answers emotions; None without."""
        classes = [task.labels for task in self.tasks.values() if task.labels and task.field == EMOTION]
        return classes[0] if classes else None

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over the batch's clips of its one task, times the task's weight, [].

        Heads, prompts and fusion scalars of other tasks get no gradient at all.
        """
        task = task_of(batch, self.tasks)
        states = self._states(batch)
        if task.labels is None:
            targets = text_targets(batch, task, eos=self.tokenizer.eos, size=self.tokenizer.size)
            logits = self._token_logits(states, task, targets.tokens[:, :-1], targets.lengths - 1)
            each = token_loss(logits, *targets, smoothing=self.options.label_smoothing)
        else:
            wanted = class_targets(batch, task)
            weights = getattr(self, f"class_weights_{task.name}", None)
            if self.options.class_answers == "head":
                each = soft_cross_entropy(self._class_logits(states, task), wanted, weights)
            else:
                costs = self._word_costs(states, task, smoothing=self.options.label_smoothing)
                each = (wanted * costs).sum(-1) * (1.0 if weights is None else (wanted * weights).sum(-1))
        return task.weight * each.mean()

    def validation_loss(self, batch: Batch) -> Tensor:
        """The loss without the task's weight; its mean over all clips is the mean over the tasks."""
        task = task_of(batch, self.tasks)
        return self.notes.loss(task.name, self.loss(batch) / task.weight, len(batch))

    def predict(self, batch: Batch) -> list[Prediction]:
        """Answers for the batch's task, or for all of the model where the batch names none."""
        asked = list(self.tasks.values()) if batch.task is None else [task_of(batch, self.tasks)]
        states = self._states(batch)
        answers: list[tuple[Task, Answers]] = []
        for task in asked:
            if task.labels is None:
                answers.append((task, self._transcripts(states, task, batch.lengths / SAMPLE_RATE)))
            elif self.options.class_answers == "head":
                answers.append((task, self._class_logits(states, task)))
            else:
                answers.append((task, -self._word_costs(states, task, smoothing=0.0, whole=True)))
        return predictions(batch.references, answers, self.calibration)

    def prompt_state(
        self,
        batch: Batch,
        task: str,
        *,
        prompt: Tensor | None = None,
        gate: str | None = None,
    ) -> Fused:
        """Fused state [B, 1, D] and alpha [B, 1, L] at the last prompt position, as class heads see it.

        Args:
            batch: clips.
            task: whose scalars s are used.
            prompt: [P, D] embeddings in place of the task's own, e.g. of another task or between two.
            gate: task whose encoder gate is used; None: the same.
        """
        chosen = self.tasks[task]
        return self._at_prompt(self._states(batch), chosen, prompt=prompt, gate=gate)

    def prompt_layers(
        self, states: States, task: str, *, prompt: Tensor | None = None, gate: str | None = None
    ) -> tuple[Tensor, ...]:
        """The language model's L states [B, 1, D] at the last prompt position; no scalars s are in them yet.

        Args:
            states: the encoder's, of B clips.
            task: whose prompt and gate are used where no others are given.
            prompt: see `prompt_state`.
            gate: see `prompt_state`.
        """
        sequence = join(self._prefix(states, self.tasks[task], prompt=prompt, gate=gate))
        layers: tuple[Tensor, ...] = self.lm(sequence.values, at=(sequence.lengths - 1).unsqueeze(1))
        return layers

    def parameter_groups(self) -> list[ParameterGroup]:
        scalars = [*self.encoder_fusion.parameters(), *self.layer_fusion.task_scores.parameters()]
        others = [self.connector, self.prompts, self.heads]
        if self.layer_fusion.network is not None:
            others.append(self.layer_fusion.network)
        return parameter_groups(
            self.options.rates,
            encoder=self.encoder,
            encoder_parameters=self.encoder_parameters,
            scalars=scalars,
            lm=self.lm,
            others=[parameter for module in others for parameter in module.parameters()],
        )

    def summary(self) -> dict[str, float]:
        """Gate per task and encoder layer; since the last step loss per task, alpha per task and layer."""
        numbers: dict[str, float] = {}
        for name in self.tasks:
            gate = self.encoder_fusion.weights(name).detach().tolist()
            numbers |= {f"gate/{name}/{layer}": value for layer, value in enumerate(gate, start=1)}
        # Zero where another process has all clips of a task.
        absent = {f"loss/{name}": 0.0 for name in self.notes.clips}
        layers = range(1, self.lm.num_layers + 1)
        absent |= {f"alpha/{name}/{layer}": 0.0 for name in self.notes.clips for layer in layers}
        return numbers | absent | self.notes.summary()

    def train(self, mode: bool = True) -> Self:
        """Going on with training forgets what the validation before it noted."""
        if mode:
            self.notes.clear()
        return super().train(mode)

    def _states(self, batch: Batch) -> States:
        """The encoder's layers, computed here or known."""
        if batch.states is None or batch.frames is None:
            states: States = self.encoder(batch.waveforms, batch.lengths)
            return states
        if self.encoder_parameters:
            raise RecipeError("a batch brings states, and the encoder is trained; give it waveforms")
        return States(tuple(batch.states.unbind(0)), batch.frames)

    def _prefix(
        self, states: States, task: Task, *, prompt: Tensor | None = None, gate: str | None = None
    ) -> list[Part]:
        """`[speech][task prompt]`."""
        fused = self.encoder_fusion(states.layers, gate or task.name)
        speech = self.connector(fused, states.lengths)
        prompt = self.prompts[task.name] if prompt is None else prompt
        rows = len(states.lengths)
        return [speech, (prompt.expand(rows, -1, -1), states.lengths.new_full((rows,), len(prompt)))]

    def _at_prompt(
        self, states: States, task: Task, *, prompt: Tensor | None = None, gate: str | None = None
    ) -> Fused:
        layers = self.prompt_layers(states, task.name, prompt=prompt, gate=gate)
        fused: Fused = self.layer_fusion(layers, task.name)
        self._note(task, fused.alpha[:, 0])
        return fused

    def _class_logits(self, states: States, task: Task) -> Tensor:
        """[B, C]; the last prompt position has heard all speech and read no text."""
        return self.heads.class_logits(self._at_prompt(states, task).states[:, 0], task.name)

    def _token_logits(
        self, states: States, task: Task, tokens: Tensor, lengths: Tensor, *, copies: int = 1
    ) -> Tensor:
        """[B, U + 1, V] for what follows prompt and tokens [B, U]; each clip stands `copies` times."""
        prefix = [
            (part.repeat_interleave(copies, 0), counts.repeat_interleave(copies))
            for part, counts in self._prefix(states, task)
        ]
        sequence = join([*prefix, (self.lm.embed(tokens), lengths)])
        start = prefix[0][1] + prefix[1][1] - 1
        after = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        at = torch.minimum(start.unsqueeze(1) + after, (sequence.lengths - 1).unsqueeze(1))
        fused: Fused = self.layer_fusion(self.lm(sequence.values, at=at), task.name)
        self._note(task, fused.alpha[valid(lengths + 1, at.shape[1])])
        return self.heads.token_logits(fused.states)

    def _word_costs(self, states: States, task: Task, *, smoothing: float, whole: bool = False) -> Tensor:
        """[B, C] cost of each class's name as a text: the mean over its tokens, or their sum."""
        words = self.label_words[task.name]
        rows, device = len(states.lengths), states.lengths.device
        tokens = pad_sequence(words, batch_first=True).to(device).repeat(rows, 1)
        lengths = torch.tensor([len(word) for word in words], device=device).repeat(rows)
        logits = self._token_logits(states, task, tokens, lengths, copies=len(words))
        targets = with_end(tokens, lengths, self.tokenizer.eos)
        costs = token_loss(logits, *targets, smoothing=smoothing)
        return (costs * targets.lengths if whole else costs).view(rows, len(words))

    def _transcripts(self, states: States, task: Task, durations_s: Tensor) -> list[str]:
        def score(layers: tuple[Tensor, ...]) -> Tensor:
            return self.heads.token_logits(self.layer_fusion(layers, task.name).states[:, 0])

        decoding = self.options.decoding
        prefix = join(self._prefix(states, task), pad_left=True)
        limits = decoding.limits(durations_s)
        found = decode(self.lm, score, prefix, limits, eos=self.tokenizer.eos, options=decoding)
        return [self.tokenizer.decode(tokens) for tokens in found]

    def _note(self, task: Task, alpha: Tensor) -> None:
        if not self.training:
            self.notes.alpha(task.name, alpha)


def _prompt(lm: LanguageModel, tokens: int) -> nn.Parameter:
    """Random embeddings [P, D] as large as the language model's own."""
    spread = lm.model.get_input_embeddings().weight.detach().std()
    return nn.Parameter(spread * torch.randn(tokens, lm.size))
