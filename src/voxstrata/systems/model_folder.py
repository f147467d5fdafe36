"""A trained model on disk: the encoder as a plain transformers folder, the head beside it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.backbone.locate import packaged
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import EmotionHeadOptions
from voxstrata.labels import LabelSet
from voxstrata.runs import write_json
from voxstrata.systems.recognition import EmotionModel, TranscriptionModel
from voxstrata.vocabulary import Vocabulary

FORMAT = 1


def save_model(
    model: EmotionModel | TranscriptionModel, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Writes `encoder/`, `head.safetensors` and `model.json`; an older folder is replaced at the end.

    Args:
        model: its encoder plain or merged; a merged one is written as the merged weights.
        folder: where to.
        dtype: of the floating-point weights on disk; None keeps them.

    Raises:
        VoxstrataError: if the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if isinstance(model.encoder, SpeechEncoder):
            model.encoder.save(partial / "encoder", dtype=dtype)
        else:
            model.encoder.export(partial / "encoder", dtype=dtype)
        save_file(_head_tensors(model, dtype), partial / "head.safetensors", metadata={"format": "pt"})
        (partial / "head.safetensors").chmod(0o644)
        write_json(partial / "model.json", _describe(model))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except (OSError, SafetensorError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise VoxstrataError(
            f"cannot write {folder}: {reason}; free space or choose another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _head_tensors(
    model: EmotionModel | TranscriptionModel, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """All tensors of a model but the encoder's."""
    return {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else None).contiguous().clone()
        for name, tensor in model.state_dict().items()
        if not name.startswith("encoder.")
    }


def _describe(model: EmotionModel | TranscriptionModel) -> dict[str, object]:
    encoder = model.encoder if isinstance(model.encoder, SpeechEncoder) else model.encoder.base
    shared = {"format": FORMAT, "normalize": encoder.normalize, "final_norm": encoder.final_norm}
    if isinstance(model, EmotionModel):
        return shared | {"kind": "emotion", "labels": list(model.labels), "head": asdict(model.options)}
    return shared | {"kind": "transcription", "vocabulary": list(model.head.vocabulary.characters)}


def find_model(source: str | Path) -> Path | None:
    """The model folder behind a run's folder, a model folder or a packaged name; None if there is none."""
    places = (Path(source) / "model", Path(source), packaged(str(source)))
    return next((place for place in places if place and (place / "model.json").is_file()), None)


def model_kind(folder: Path) -> str | None:
    """Emotion or transcription, without loading weights; None where model.json does not tell."""
    kind = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("kind")
    return str(kind) if kind is not None else None


def load_model(folder: Path) -> EmotionModel | TranscriptionModel:
    """A saved model, frozen and in eval mode.

    Raises:
        CheckpointError: if the folder holds no model, one of another format or a broken one, or a head that
            does not fit.
    """
    if not (folder / "model.json").is_file():
        raise CheckpointError(f"{folder} holds no model (no model.json); give the model/ folder of a run")
    model = _described(folder)
    try:
        head = load_file(folder / "head.safetensors")
    except (OSError, SafetensorError) as fault:
        raise CheckpointError(
            f"cannot read {folder / 'head.safetensors'}: {fault}; fetch or train it again"
        ) from None
    expected = {name: tensor.shape for name, tensor in _head_tensors(model).items()}
    if {name: tensor.shape for name, tensor in head.items()} != expected:
        raise CheckpointError(
            f"{folder / 'head.safetensors'} does not fit model.json beside it; fetch or train both again"
        )
    model.load_state_dict(head, strict=False)
    return model.requires_grad_(False).eval()


def _described(folder: Path) -> EmotionModel | TranscriptionModel:
    """The model that model.json tells of, its encoder loaded and its head not yet."""
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        found = about["format"]
        if found != FORMAT:
            raise CheckpointError(
                f"{folder} has format {found}, this version reads {FORMAT}; update voxstrata"
            )
        kind, normalize, final_norm = about["kind"], about["normalize"], about["final_norm"]
        labels = LabelSet(tuple(about["labels"])) if kind == "emotion" else None
        options = EmotionHeadOptions(**about["head"]) if kind == "emotion" else None
        vocabulary = Vocabulary(tuple(about["vocabulary"])) if kind == "transcription" else None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{folder / 'model.json'} does not describe a model; fetch or train it again"
        ) from None
    encoder = load_backbone(folder / "encoder", normalize=normalize, final_norm=final_norm)
    if labels is not None:
        return EmotionModel(encoder, labels, options)
    if vocabulary is not None:
        return TranscriptionModel(encoder, CTCHead(encoder.hidden_size, vocabulary))
    raise CheckpointError(
        f"{folder} holds a model of kind {kind!r}; this version knows emotion, transcription"
    )
