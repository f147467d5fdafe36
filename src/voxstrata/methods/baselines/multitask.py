"""Multi-task learning: emotions and words by one encoder, all of it trained on both losses at once.

AdaLTM (arXiv 2603.25041), table 1, part 1: what merging is compared with. L = L_SER + w L_CTC (w = 0.1 in
Cai et al., Interspeech 2021): class-balanced cross-entropy of an emotion head on the weighted sum of the
layers, and CTC per character of a linear map on the last layer. With w = 0 this is fine-tuning for emotions
alone, with the same optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.config.head import HeadOptions
from voxstrata.config.recipe import BaseRecipe
from voxstrata.config.strict import Coefficient, Name, Rate, Text
from voxstrata.config.training import Training
from voxstrata.heads.ctc import CTCHead
from voxstrata.losses import ctc_loss, soft_cross_entropy
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.baselines.finetune import FinetuneRates, encoder_groups
from voxstrata.methods.building import class_weights, load_base, load_vectors, vector_parents
from voxstrata.methods.encoder_models import JointLogits, MultitaskModel
from voxstrata.methods.fits import BASE, Fit, emotion_defaults
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.method import Defaults, Facts, Notify, TrainedMethod, Work
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.model_kinds import MULTITASK
from voxstrata.methods.sources import Sources, clip_sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction
from voxstrata.system import ParameterGroup, System
from voxstrata.training.seeding import seed_everything

#: Which validation loss the best weights have: of both tasks, or of emotions alone.
Selection = Literal["joint", "emotion"]


class MultitaskRecipe(BaseRecipe):
    """Multi-task learning, the baseline of merging: emotions and words by one encoder, all of it trained.

    The loss is L_SER + `asr_weight` L_CTC, with an emotion head on the layer sum and a CTC head on the last
    layer (see `Multitask`). With `asr_weight: 0` this is `finetune` for emotions with the same optimizer and
    clips. The log shows both losses and the share of blanks: near 1, CTC has collapsed. There is no
    `data.crop_s`.

    Args:
        vectors: name -> run, model folder or checkpoint: training starts from the base merged with them.
        init: coefficients of that merge: a number, or one per vector.
        asr_weight: weight of the CTC loss, which is per character.
        selected_by: validation loss that chooses the weights: "joint", or "emotion" (its SER part), which
            needs `training.keep_best` or `training.patience`.
        clips: "both": clips with emotion and transcript; "any": each clip with what it has.
        rates: learning rates.
        head: of emotions.
        freeze_front_end: keep the convolutional front end as it is.
        training: how long and how to train.
    """

    system: Literal["multitask"] = "multitask"
    vectors: dict[Name, Text] = Field(default_factory=dict)
    init: Coefficient | dict[str, Coefficient] = 0.5
    asr_weight: Rate = 0.1
    selected_by: Selection = "joint"
    clips: Literal["both", "any"] = "both"
    rates: FinetuneRates = FinetuneRates()
    head: HeadOptions = HeadOptions()
    freeze_front_end: bool = False
    training: Training

    @model_validator(mode="after")
    def _selected_by_something(self) -> MultitaskRecipe:
        if self.selected_by == "emotion" and not self.training.keep_best and self.training.patience is None:
            raise ValueError(
                "selected_by is emotion, and neither training.keep_best nor training.patience selects; "
                "switch one on, or leave selected_by out"
            )
        return self

    @model_validator(mode="after")
    def _whole_clips_with_classes(self) -> MultitaskRecipe:
        self.data.require_whole_clips(self.system)
        self.data.require_classes(self.system)
        return self


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


class MultitaskMethod(TrainedMethod[MultitaskRecipe]):
    """How a run learns both tasks (see `methods.method`)."""

    recipe = MultitaskRecipe
    stage = "fine-tuning"
    kinds = (MULTITASK,)

    def facts(self, recipe: MultitaskRecipe) -> Facts:
        trained: Literal["layers", "all"] = "layers" if recipe.freeze_front_end else "all"
        return Facts(
            tasks={},
            learns=frozenset({"emotion", "transcript"}),
            base=recipe.base,
            parents=vector_parents(recipe.vectors),
            fitted_on_heldout=False,
            encoders=(recipe.base,),
            new_encoder=None,
            writes_ctc=recipe.asr_weight > 0,
            resting_steps=recipe.rates.warm_head_steps,
            work=Work(vectors=len(recipe.vectors), trained=trained),
        )

    def defaults(self, values: Mapping[str, Any]) -> Defaults:
        def fill(fit: Fit) -> dict[str, Any]:
            rates = {"encoder": fit.asr_encoder, "head": fit.ctc_head, "layer_weights": fit.layer_weights}
            return {"rates": rates} | emotion_defaults(fit, values)

        return Defaults(str(values.get("base", BASE)), fill)

    def sources(self, recipe: MultitaskRecipe) -> Sources:
        require: Literal["any", "all"] = "any" if recipe.clips == "any" else "all"
        return clip_sources(recipe, words=True, classes=True, require=require)

    def build(self, recipe: MultitaskRecipe, sources: AnySources, notify: Notify) -> System:
        assert isinstance(sources, Sources) and sources.labels is not None and sources.vocabulary is not None
        encoder = load_base(recipe, notify)
        hold_against_frames(sources, [encoder.model.config], notify, words=self.facts(recipe).writes_ctc)
        if vectors := load_vectors(recipe.vectors, encoder, notify):
            merged = MergedBackbone(encoder, vectors, granularity="static", init=recipe.init)
            encoder.model.load_state_dict(merged.merged_state())
            notify(f"start: the base merged with {', '.join(vectors)}")
        encoder.requires_grad_(True)
        seed_everything(recipe.seed)
        transcriber = CTCHead(encoder.hidden_size, sources.vocabulary)
        # Again, so that either head starts as the same head of other rows does.
        seed_everything(recipe.seed)
        return Multitask(
            MultitaskModel(encoder, sources.labels, transcriber, recipe.head),
            class_weights(sources, notify),
            recipe.rates,
            asr_weight=recipe.asr_weight,
            selected_by=recipe.selected_by,
            freeze_front_end=recipe.freeze_front_end,
        )

    def kept(self, recipe: MultitaskRecipe, system: System) -> None:
        return None

    def save(self, system: System, folder: Path) -> None:
        assert isinstance(system, Multitask)
        save_model(system.model, folder)


METHOD = MultitaskMethod()
