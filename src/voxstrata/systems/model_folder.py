"""A trained model on disk: the encoder as a plain transformers folder, the head beside it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.backbone.families.family import WINDOWS
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.locate import packaged
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.fusion.parallel_encoders import ParallelEncoders
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import EmotionHeadOptions
from voxstrata.labels import LabelSet
from voxstrata.merging.merged import MergedBackbone
from voxstrata.merging.task_vector import TaskVector
from voxstrata.runs import write_json
from voxstrata.systems.harmonifuse import folder as harmonifuse_folder
from voxstrata.systems.harmonifuse.system import HarmoniFuse
from voxstrata.systems.joint_adaltm import EMOTIONS, TASKS, WORDS, JointModel
from voxstrata.systems.multitask import MultitaskModel
from voxstrata.systems.recognition import (
    ClipBackbone,
    ClipModel,
    DimensionModel,
    EmotionModel,
    TranscriptionModel,
)
from voxstrata.vocabulary import Vocabulary

FORMAT = 1
#: Emotions and words over merges of one base, each with coefficients of its own.
PER_TASK = "per-task-merge"
KINDS = ("emotion", "dimensions", "transcription", "multitask", PER_TASK, harmonifuse_folder.KIND)

#: Where vectors lie that a model merges anew for each task.
VECTORS = "vectors"

Model = ClipModel | TranscriptionModel | HarmoniFuse


def save_model(model: Model, folder: Path, *, dtype: torch.dtype | None = None) -> None:
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
        if _per_task(model) is not None:
            _save_vectors(model, partial, dtype)
        elif isinstance(model.encoder, SpeechEncoder | ParallelEncoders):
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


def _head_tensors(model: Model, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """All tensors of a model but the encoder's, and a pretrained language model's own."""
    tensors = (
        harmonifuse_folder.saved_tensors(model) if isinstance(model, HarmoniFuse) else model.state_dict()
    )
    return {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else None).contiguous().clone()
        for name, tensor in tensors.items()
        if not name.startswith(("encoder.", "words_encoder."))
    }


def _per_task(model: Model) -> JointModel | None:
    """The model, where it merges anew for each task."""
    return model if isinstance(model, JointModel) and model.words_encoder is not None else None


def _save_vectors(model: Model, folder: Path, dtype: torch.dtype | None) -> None:
    """Writes base and vectors, in the place of a merged encoder."""
    assert isinstance(model, JointModel)
    merged = model.encoder
    merged.base.save(folder / "encoder", dtype=dtype)
    base = {name: weight.to(dtype).float() for name, weight in merged.base.weights().items()}
    for name, vector in merged.task_vectors().items():
        stored = replace(vector, base_fingerprint=fingerprint(base))
        stored.save(folder / VECTORS / f"{name}.safetensors", dtype=dtype or torch.float32)


def _describe(model: Model) -> dict[str, object]:
    shared: dict[str, object] = {"format": FORMAT, **_describe_encoder(model.encoder)}
    if isinstance(model, ClipModel) and model.words != "plain":
        shared["words"] = model.words
    if isinstance(model, HarmoniFuse):
        return shared | harmonifuse_folder.describe(model)
    if isinstance(model, MultitaskModel):
        characters = list(model.transcriber.vocabulary.characters)
        told = {"labels": list(model.labels), "head": asdict(model.options), "vocabulary": characters}
        return shared | {"kind": "multitask"} | told | _describe_merges(model)
    if isinstance(model, EmotionModel):
        return shared | {"kind": "emotion", "labels": list(model.labels), "head": asdict(model.options)}
    if isinstance(model, DimensionModel):
        return shared | {"kind": "dimensions", "head": asdict(model.options)}
    assert isinstance(model, TranscriptionModel)
    return shared | {"kind": "transcription", "vocabulary": list(model.head.vocabulary.characters)}


def _describe_merges(model: Model) -> dict[str, object]:
    if (joint := _per_task(model)) is None:
        return {}
    merges = {task: joint.merge_of(task).coefficients_by_layer() for task in TASKS}
    return {"kind": PER_TASK, "vectors": list(joint.encoder.vectors), "coefficients": merges}


def _describe_encoder(encoder: ClipBackbone) -> dict[str, object]:
    if isinstance(encoder, ParallelEncoders):
        # Each expert's own folder tells whether it takes normalised waveforms.
        plain, *_ = encoder.encoders
        final_norm = any(member.final_norm for member in encoder.encoders)
        names = list(encoder.names)
        told: dict[str, object] = {"normalize": None, "final_norm": final_norm, "experts": names}
    else:
        plain = encoder if isinstance(encoder, SpeechEncoder) else encoder.base
        told = {"normalize": plain.normalize, "final_norm": plain.final_norm}
    # Told where it is not what all encoders have: older versions read the others.
    return told if plain.window == "clip" else {**told, "window": plain.window}


def find_model(source: str | Path) -> Path | None:
    """The model folder behind a run's folder, a model folder or a packaged name; None if there is none."""
    places = (Path(source) / "model", Path(source), packaged(str(source)))
    return next((place for place in places if place and (place / "model.json").is_file()), None)


def model_kind(folder: Path) -> str | None:
    """One of `KINDS`, without loading weights; None where it is not told."""
    kind = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("kind")
    return str(kind) if kind is not None else None


def vocabulary_of(source: str | Path) -> Vocabulary:
    """The characters of a model with a CTC head, without loading weights.

    Raises:
        CheckpointError: if there is no such model.
    """
    folder = find_model(source)
    characters = folder and json.loads((folder / "model.json").read_text(encoding="utf-8")).get("vocabulary")
    if not characters:
        raise CheckpointError(
            f"{source} holds no model with a CTC head; give a run that transcribes, or a model folder"
        )
    return Vocabulary(tuple(characters))


def load_model(folder: Path) -> Model:
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
    if isinstance(model, ClipModel):
        model.words = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("words", "plain")
    return model.requires_grad_(False).eval()


def _described(folder: Path) -> Model:
    """The model that model.json tells of, its encoder loaded and its head not yet."""
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        found = about["format"]
        if found != FORMAT:
            raise CheckpointError(
                f"{folder} has format {found}, this version reads {FORMAT}; update voxstrata"
            )
        kind, normalize, final_norm = about["kind"], about["normalize"], about["final_norm"]
        experts = about.get("experts")
        both = ("multitask", PER_TASK)
        labels = LabelSet(tuple(about["labels"])) if kind in ("emotion", *both) else None
        headed = kind in ("emotion", "dimensions", *both)
        options = EmotionHeadOptions(**about["head"]) if headed else None
        vocabulary = Vocabulary(tuple(about["vocabulary"])) if kind in ("transcription", *both) else None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{folder / 'model.json'} does not describe a model; fetch or train it again"
        ) from None
    if kind not in KINDS:
        raise CheckpointError(
            f"{folder} holds a model of kind {kind!r}; this version knows {', '.join(KINDS)}"
        )
    window = about.get("window", "clip")
    if window not in WINDOWS:
        raise CheckpointError(
            f"{folder / 'model.json'} has window {window!r}; this version knows {', '.join(WINDOWS)}"
        )
    load = partial(load_backbone, normalize=normalize, final_norm=final_norm, window=window)
    if experts is not None:
        side_by_side = ParallelEncoders({name: load(folder / "encoder" / name) for name in experts})
        return (
            DimensionModel(side_by_side, options)
            if labels is None
            else EmotionModel(side_by_side, labels, options)
        )
    encoder = load(folder / "encoder")
    if kind == harmonifuse_folder.KIND:
        return harmonifuse_folder.described(about, encoder)
    head = None if vocabulary is None else CTCHead(encoder.hidden_size, vocabulary)
    if labels is None:
        return DimensionModel(encoder, options) if head is None else TranscriptionModel(encoder, head)
    if head is None:
        return EmotionModel(encoder, labels, options)
    if kind == PER_TASK:
        merges = _merges(folder, about, encoder)
        return JointModel(merges[EMOTIONS], labels, head, options, merges[WORDS])
    return MultitaskModel(encoder, labels, head, options)


def _merges(folder: Path, about: dict[str, Any], base: SpeechEncoder) -> dict[str, MergedBackbone]:
    """Task -> the merged encoder that answers it; base and vectors are held once."""
    names, coefficients = about["vectors"], about["coefficients"]
    vectors = {name: TaskVector.load(folder / VECTORS / f"{name}.safetensors") for name in names}
    first = MergedBackbone(base, vectors, granularity="layer")
    merges = {EMOTIONS: first, WORDS: first.twin()}
    for task, merged in merges.items():
        values = torch.tensor(coefficients[task])
        if values.shape != merged.coefficients.shape:
            raise CheckpointError(
                f"{folder / 'model.json'} has coefficients {list(values.shape)} of task {task}; this base "
                f"and its vectors take {list(merged.coefficients.shape)}: fetch or train it again"
            )
        with torch.no_grad():
            merged.coefficients.copy_(values)
    return merges
