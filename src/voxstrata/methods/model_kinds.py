"""How kinds of trained models lie in a model folder: what model.json tells, and how each is built again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.heads.ctc import CTCHead
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import (
    ClipBackbone,
    DimensionModel,
    EmotionModel,
    Model,
    MultitaskModel,
    TranscriptionModel,
)
from voxstrata.methods.model_description import Description, Shapes

#: Loads an encoder's folder as the model hears it.
Load = Callable[[Path], SpeechEncoder]


class ModelKind(ABC):
    """One kind of trained model on disk.

    Class attributes:
        name: `kind` in model.json.
        parts: which of "labels", "head" and "vocabulary" model.json has of it.
        about: what such a model does, in words for a card.
    """

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    about: ClassVar[str]

    @abstractmethod
    def holds(self, model: nn.Module) -> bool:
        """Whether a model is of this kind, and of no other."""

    @abstractmethod
    def describe(self, model: Any) -> dict[str, Any]:
        """What model.json tells of it beside its encoder's settings."""

    @abstractmethod
    def build(self, folder: Path, stated: Description, shapes: Shapes, load: Load) -> Model:
        """The model, its encoder loaded and its own tensors not yet.

        Args:
            folder: of the model.
            stated: by model.json.
            shapes: of the stored tensors.
            load: loads an encoder's folder.

        Raises:
            CheckpointError: if the description does not hold.
        """

    def tensors(self, model: Any) -> Mapping[str, Tensor]:
        """All tensors that lie in head.safetensors: those that the encoder's folder does not hold."""
        state: Mapping[str, Tensor] = model.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}

    def save_encoder(self, model: Any, folder: Path, dtype: torch.dtype | None) -> None:
        """Writes `encoder/` into a model folder; a merged encoder as its merged weights."""
        if isinstance(model.encoder, SpeechEncoder | ParallelEncoders):
            model.encoder.save(folder / "encoder", dtype=dtype)
        else:
            model.encoder.export(folder / "encoder", dtype=dtype)


def describe_encoder(encoder: ClipBackbone) -> dict[str, Any]:
    """What model.json tells of an encoder's settings."""
    if isinstance(encoder, ParallelEncoders):
        # Each expert's own folder tells whether it takes normalised waveforms.
        plain, *_ = encoder.encoders
        final_norm = any(member.final_norm for member in encoder.encoders)
        names = list(encoder.names)
        stated: dict[str, Any] = {"normalize": None, "final_norm": final_norm, "experts": names}
    else:
        plain = encoder if isinstance(encoder, SpeechEncoder) else encoder.base
        stated = {"normalize": plain.normalize, "final_norm": plain.final_norm}
    # Told where it is not what all encoders have: older versions read the others.
    return stated if plain.window == "clip" else {**stated, "window": plain.window}


def encoder_of(folder: Path, stated: Description, load: Load) -> SpeechEncoder | ParallelEncoders:
    """The encoder of a model folder, or the encoders side by side."""
    if stated.experts is None:
        return load(folder / "encoder")
    return ParallelEncoders({name: load(folder / "encoder" / name) for name in stated.experts})


def loading(stated: Description) -> Load:
    """Loads an encoder with the settings that a description tells."""

    def load(folder: Path) -> SpeechEncoder:
        return load_backbone(
            folder, normalize=stated.normalize, final_norm=stated.final_norm, window=stated.window
        )

    return load


class _Emotion(ModelKind):
    name = "emotion"
    about = "A model that recognises emotions: a speech encoder and a head over its layers."
    parts = ("labels", "head")

    def holds(self, model: nn.Module) -> bool:
        return isinstance(model, EmotionModel) and not isinstance(model, MultitaskModel)

    def describe(self, model: EmotionModel) -> dict[str, Any]:
        return {"labels": list(model.labels), "head": model.options.model_dump()}

    def build(self, folder: Path, stated: Description, shapes: Shapes, load: Load) -> EmotionModel:
        assert stated.labels is not None
        return EmotionModel(encoder_of(folder, stated, load), stated.labels, stated.head)


class _Dimensions(ModelKind):
    name = "dimensions"
    about = "A model that rates arousal, valence and dominance: a speech encoder and a head."
    parts = ("head",)

    def holds(self, model: nn.Module) -> bool:
        return isinstance(model, DimensionModel)

    def describe(self, model: DimensionModel) -> dict[str, Any]:
        return {"head": model.options.model_dump()}

    def build(self, folder: Path, stated: Description, shapes: Shapes, load: Load) -> DimensionModel:
        return DimensionModel(encoder_of(folder, stated, load), stated.head)


class _Transcription(ModelKind):
    name = "transcription"
    about = "A model that writes words: a speech encoder and a CTC head."
    parts = ("vocabulary",)

    def holds(self, model: nn.Module) -> bool:
        return isinstance(model, TranscriptionModel)

    def describe(self, model: TranscriptionModel) -> dict[str, Any]:
        return {"vocabulary": list(model.head.vocabulary.characters)}

    def build(self, folder: Path, stated: Description, shapes: Shapes, load: Load) -> TranscriptionModel:
        assert stated.vocabulary is not None
        encoder = load(folder / "encoder")
        return TranscriptionModel(encoder, CTCHead(encoder.hidden_size, stated.vocabulary))


class _Multitask(ModelKind):
    name = "multitask"
    about = "A model that recognises emotions and words: a speech encoder and two heads."
    parts = ("labels", "head", "vocabulary")

    def holds(self, model: nn.Module) -> bool:
        return isinstance(model, MultitaskModel) and not model.merges_per_task

    def describe(self, model: MultitaskModel) -> dict[str, Any]:
        return describe_both_heads(model)

    def build(self, folder: Path, stated: Description, shapes: Shapes, load: Load) -> MultitaskModel:
        assert stated.labels is not None and stated.vocabulary is not None
        encoder = load(folder / "encoder")
        head = CTCHead(encoder.hidden_size, stated.vocabulary)
        return MultitaskModel(encoder, stated.labels, head, stated.head)


def describe_both_heads(model: MultitaskModel) -> dict[str, Any]:
    """What model.json tells of an emotion head and a CTC head."""
    characters = list(model.transcriber.vocabulary.characters)
    return {"labels": list(model.labels), "head": model.options.model_dump(), "vocabulary": characters}


EMOTION, DIMENSIONS, TRANSCRIPTION, MULTITASK = _Emotion(), _Dimensions(), _Transcription(), _Multitask()
#: Kinds of models of one clip's emotion: classes, or ratings.
CLIP_KINDS: tuple[ModelKind, ...] = (EMOTION, DIMENSIONS)
