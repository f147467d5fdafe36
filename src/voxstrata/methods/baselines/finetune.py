"""Fine-tuning an encoder for emotions (SER) or for words (ASR) with differential learning rates.

AdaLTM section 2.1: the experts whose task vectors are merged later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.groups import layer_index
from voxstrata.batches.batch import Batch
from voxstrata.config.head import HeadOptions
from voxstrata.config.recipe import BaseRecipe
from voxstrata.config.strict import Count, Number, Rate, Strict
from voxstrata.config.training import Training
from voxstrata.heads.ctc import CTCHead
from voxstrata.losses import ctc_loss
from voxstrata.methods.building import clip_model, load_base
from voxstrata.methods.encoder_models import ClipModel, TranscriptionModel
from voxstrata.methods.fits import BASE, Fit, emotion_defaults, shared_defaults
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.method import Defaults, Facts, Notify, TrainedMethod, Work
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.model_kinds import CLIP_KINDS, TRANSCRIPTION
from voxstrata.methods.sources import Sources, clip_sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction
from voxstrata.system import ParameterGroup, System
from voxstrata.training.seeding import seed_everything


class FinetuneRates(Strict):
    """Peak learning rates; 0 freezes a part.

    Args:
        encoder: of the encoder's last layer, and of all that stands outside the layers.
        head: the task head.
        layer_weights: the weights of the layer sum (SER).
        weight_decay: of encoder and head.
        layer_decay: each layer below the last learns at this many times the rate of the one above it
            (ULMFiT, arXiv 1801.06146, section 3.2); what lies below the layers at that of a layer 0.
        warm_head_steps: steps in which only the head learns, so that its first, blind gradients do not
            reach the encoder (LP-FT, arXiv 2202.10054).
    """

    encoder: Rate = 1e-5
    head: Rate = 1e-4
    layer_weights: Rate = 1e-3
    weight_decay: Rate = 0.01
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    warm_head_steps: Count = 0


class FinetuneRecipe(BaseRecipe):
    """Fine-tune an expert: encoder and emotion head, or encoder and CTC head over characters.

    Args:
        task: "ser" (emotions) or "asr" (words); asr takes no `data.crop_s`, which would cut words off.
        rates: learning rates.
        head: of emotions.
        freeze_front_end: keep the convolutional front end as it is.
        training: how long and how to train.
    """

    system: Literal["finetune"] = "finetune"
    task: Literal["ser", "asr"]
    rates: FinetuneRates = FinetuneRates()
    head: HeadOptions = HeadOptions()
    freeze_front_end: bool = True
    training: Training

    @model_validator(mode="after")
    def _whole_clips_for_asr(self) -> FinetuneRecipe:
        if self.task == "asr":
            self.data.require_whole_clips("task asr")
            if self.data.targets == "dimensions":
                raise ValueError(
                    "data.targets is dimensions and task is asr; give data.targets=consensus, or task=ser"
                )
        return self


def encoder_groups(
    encoder: SpeechEncoder, rates: FinetuneRates, *, freeze_front_end: bool
) -> list[ParameterGroup]:
    """The encoder's trained parameters: one group, or with a decay over layers one per group 0 to L.

    Args:
        encoder: what is trained, without its convolutional front end if that stays frozen.
        rates: of the encoder.
        freeze_front_end: whether the front end stays as it is.
    """
    trained = encoder.trainable(freeze_front_end=freeze_front_end)
    if rates.layer_decay == 1:
        members = {"encoder": list(trained.values())}
        decays = {"encoder": 1.0}
    else:
        members, decays = {}, {}
        for name, parameter in trained.items():
            layer = layer_index(name)
            members.setdefault(f"encoder/{layer}", []).append(parameter)
            decays[f"encoder/{layer}"] = rates.layer_decay ** (encoder.num_layers - layer)
    return [
        ParameterGroup(
            name,
            tuple(parameters),
            rates.encoder * decays[name],
            rates.weight_decay,
            start_step=rates.warm_head_steps,
        )
        for name, parameters in members.items()
    ]


class _Finetune(System):
    """What both tasks share: the learning rates of encoder and head."""

    def __init__(
        self, model: ClipModel | TranscriptionModel, rates: FinetuneRates, freeze_front_end: bool
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
        groups = [
            *encoder_groups(self.model.encoder, rates, freeze_front_end=self.freeze_front_end),
            ParameterGroup("head", tuple(self.model.head.parameters()), rates.head, rates.weight_decay),
        ]
        if isinstance(self.model, ClipModel):
            weights = tuple(self.model.layer_sum.parameters())
            groups.append(ParameterGroup("layer_weights", weights, rates.layer_weights))
        return [group for group in groups if group.lr > 0]


class SERFinetune(_Finetune):
    """Emotion expert: encoder, layer sum and head under the model's loss.

    Args:
        model: encoder, layer sum and head; an `EmotionModel` or a `DimensionModel`.
        class_weights: [C], see `losses.class_balanced_weights`; None for equal ones, or no classes.
        rates: learning rates.
        freeze_front_end: whether the convolutional front end stays as it is.
    """

    model: ClipModel
    class_weights: Tensor | None

    def __init__(
        self,
        model: ClipModel,
        class_weights: Tensor | None,
        rates: FinetuneRates,
        *,
        freeze_front_end: bool = True,
    ) -> None:
        super().__init__(model, rates, freeze_front_end)
        self.register_buffer("class_weights", class_weights)

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(batch, self.class_weights)


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


class Finetune(TrainedMethod[FinetuneRecipe]):
    """How a run fine-tunes an encoder (see `methods.method`)."""

    recipe = FinetuneRecipe
    stage = "fine-tuning"
    kinds = (*CLIP_KINDS, TRANSCRIPTION)

    def facts(self, recipe: FinetuneRecipe) -> Facts:
        words = recipe.task == "asr"
        return Facts(
            tasks={},
            learns=frozenset({"transcript" if words else "emotion"}),
            base=recipe.base,
            parents=(),
            fitted_on_heldout=False,
            encoders=(recipe.base,),
            new_encoder=None,
            writes_ctc=words,
            resting_steps=recipe.rates.warm_head_steps,
            work=Work(trained="layers" if recipe.freeze_front_end else "all"),
        )

    def defaults(self, values: Mapping[str, Any]) -> Defaults:
        def fill(fit: Fit) -> dict[str, Any]:
            if values.get("task") == "asr":
                rates = {"encoder": fit.asr_encoder, "head": fit.ctc_head}
                return {"rates": rates} | shared_defaults(fit, values)
            rates = {"encoder": fit.ser_encoder, "head": fit.head, "layer_weights": fit.layer_weights}
            return {"rates": rates} | emotion_defaults(fit, values, crop_s=fit.crop_s)

        return Defaults(str(values.get("base", BASE)), fill)

    def sources(self, recipe: FinetuneRecipe) -> Sources:
        words = recipe.task == "asr"
        return clip_sources(recipe, words=words, classes=not words and recipe.data.targets != "dimensions")

    def build(self, recipe: FinetuneRecipe, sources: AnySources, notify: Notify) -> System:
        assert isinstance(sources, Sources)
        encoder = load_base(recipe, notify)
        hold_against_frames(sources, [encoder.model.config], notify, words=self.facts(recipe).writes_ctc)
        encoder.requires_grad_(True)
        if recipe.task == "ser":
            model, weights = clip_model(recipe, recipe.head, encoder, sources, notify)
            return SERFinetune(model, weights, recipe.rates, freeze_front_end=recipe.freeze_front_end)
        assert sources.vocabulary is not None
        seed_everything(recipe.seed)
        head = CTCHead(encoder.hidden_size, sources.vocabulary)
        transcriber = TranscriptionModel(encoder, head)
        return ASRFinetune(transcriber, recipe.rates, freeze_front_end=recipe.freeze_front_end)

    def kept(self, recipe: FinetuneRecipe, system: System) -> None:
        return None

    def save(self, system: System, folder: Path) -> None:
        assert isinstance(system, SERFinetune | ASRFinetune)
        save_model(system.model, folder)


METHOD = Finetune()
