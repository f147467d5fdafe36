"""A trained model on disk: the encoder as a plain transformers folder, the head beside it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.backbone.export_folder import CARD, COEFFICIENTS
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.finite import require_finite
from voxstrata.backbone.locate import packaged
from voxstrata.errors import CheckpointError
from voxstrata.heads.ctc import CTCHead
from voxstrata.methods.adaltm.joint import EMOTIONS, TASKS, WORDS, JointModel
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import (
    ClipBackbone,
    ClipModel,
    DimensionModel,
    EmotionModel,
    MultitaskModel,
    TranscriptionModel,
)
from voxstrata.methods.harmonifuse import folder as harmonifuse_folder
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.model_description import (
    DESCRIPTION,
    FORMAT,
    HEAD,
    Description,
    Shapes,
    checked,
    file_names,
    head_shapes,
    load_head,
    read_about,
)
from voxstrata.methods.weight_hashes import require_saved, weight_hashes
from voxstrata.runs import TRAINING_CLIPS, require_free, write_json, written_whole
from voxstrata.vocabulary import Vocabulary

#: Emotions and words over merges of one base, each with coefficients of its own.
PER_TASK = "per-task-merge"
#: Kind of a model -> its parts, as model.json names them.
_PARTS = {
    "emotion": ("labels", "head"),
    "dimensions": ("head",),
    "transcription": ("vocabulary",),
    "multitask": ("labels", "head", "vocabulary"),
    PER_TASK: ("labels", "head", "vocabulary"),
    harmonifuse_folder.KIND: (),
}
KINDS = tuple(_PARTS)

#: Where vectors lie that a model merges anew for each task.
VECTORS = "vectors"
_OURS = {"encoder", VECTORS, HEAD, DESCRIPTION, COEFFICIENTS, CARD, TRAINING_CLIPS}

Model = ClipModel | TranscriptionModel | HarmoniFuse


def save_model(model: Model, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes `encoder/`, `head.safetensors` and `model.json`, which tells the hashes of all weights.

    Args:
        model: its encoder plain or merged; a merged one is written as the merged weights.
        folder: new or empty, or one with an older model alone, which is replaced at the end.
        dtype: of the floating-point weights on disk; None keeps them.

    Raises:
        CheckpointError: if the folder holds something else, is a file, or cannot be written.
    """
    require_free(folder, overwrite=_is_ours(folder), error=CheckpointError)
    with written_whole(folder, failures=(SafetensorError,), error=CheckpointError) as partial:
        partial.mkdir()
        if _per_task(model) is not None:
            _save_vectors(model, partial, dtype)
        elif isinstance(model.encoder, SpeechEncoder | ParallelEncoders):
            model.encoder.save(partial / "encoder", dtype=dtype)
        else:
            model.encoder.export(partial / "encoder", dtype=dtype)
        save_file(_head_tensors(model, dtype), partial / HEAD, metadata={"format": "pt"})
        (partial / HEAD).chmod(0o644)
        write_json(partial / DESCRIPTION, {**_describe(model), "weights": weight_hashes(partial)})


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a model that was saved here, and what runs and exports lay beside one."""
    return (folder / DESCRIPTION).is_file() and {path.name for path in folder.iterdir()} <= _OURS


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
        told = {"labels": list(model.labels), "head": model.options.model_dump(), "vocabulary": characters}
        return shared | {"kind": "multitask"} | told | _describe_merges(model)
    if isinstance(model, EmotionModel):
        return shared | {"kind": "emotion", "labels": list(model.labels), "head": model.options.model_dump()}
    if isinstance(model, DimensionModel):
        return shared | {"kind": "dimensions", "head": model.options.model_dump()}
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
    kind = read_about(folder).get("kind")
    return str(kind) if kind is not None else None


def vocabulary_of(source: str | Path) -> Vocabulary:
    """The characters of a model with a CTC head, without loading weights.

    Raises:
        CheckpointError: if there is no such model.
    """
    folder = find_model(source)
    characters = read_about(folder).get("vocabulary") if folder else None
    if not isinstance(characters, list) or not characters or not all(isinstance(c, str) for c in characters):
        raise CheckpointError(
            f"{source} holds no model with a CTC head; give a run that transcribes, or a model folder"
        )
    return Vocabulary(tuple(characters))


def load_model(folder: Path) -> Model:
    """A saved model, frozen and in eval mode.

    Raises:
        CheckpointError: if the folder holds no model, one of another format or a broken one, a head that
            does not fit, weights that no training gives, or others than were saved.
    """
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError(f"{folder} holds no model (no {DESCRIPTION}); give the model/ folder of a run")
    about, shapes = read_about(folder), head_shapes(folder)
    told = checked(folder, about, _PARTS, shapes)
    with ThreadPoolExecutor(1) as beside:
        hashed = beside.submit(require_saved, folder, about)
        model = _described(folder, told, shapes)
        model.load_state_dict(load_head(folder, _head_tensors(model)), strict=False)
        # Behind what tells more of a weight that is broken.
        hashed.result()
    if isinstance(model, ClipModel):
        model.words = told.words
    return model.requires_grad_(False).eval()


def _described(folder: Path, told: Description, shapes: Shapes) -> Model:
    """The model that model.json tells of, its encoder loaded and its head not yet."""
    load = partial(load_backbone, normalize=told.normalize, final_norm=told.final_norm, window=told.window)
    if told.experts is not None:
        side_by_side = ParallelEncoders({name: load(folder / "encoder" / name) for name in told.experts})
        if told.labels is None:
            return DimensionModel(side_by_side, told.head)
        return EmotionModel(side_by_side, told.labels, told.head)
    encoder = load(folder / "encoder")
    if told.kind == harmonifuse_folder.KIND:
        return harmonifuse_folder.described(told.about, encoder, shapes)
    head = None if told.vocabulary is None else CTCHead(encoder.hidden_size, told.vocabulary)
    if told.labels is None:
        return DimensionModel(encoder, told.head) if head is None else TranscriptionModel(encoder, head)
    if head is None:
        return EmotionModel(encoder, told.labels, told.head)
    if told.kind == PER_TASK:
        merges = _merges(folder, told.about, encoder)
        return JointModel(merges[EMOTIONS], told.labels, head, told.head, merges[WORDS])
    return MultitaskModel(encoder, told.labels, head, told.head)


def _merges(folder: Path, about: Mapping[str, Any], base: SpeechEncoder) -> dict[str, MergedBackbone]:
    """Task -> the merged encoder that answers it; base and vectors are held once."""
    try:
        names = file_names(about["vectors"])
        coefficients = {task: torch.tensor(about["coefficients"][task]).float() for task in (EMOTIONS, WORDS)}
    except (KeyError, TypeError, ValueError, RuntimeError) as fault:
        raise CheckpointError(
            f"{folder / DESCRIPTION} does not tell vectors and coefficients ({fault}); fetch or train it "
            "again"
        ) from None
    require_finite(coefficients.items(), folder / DESCRIPTION)
    vectors = {name: TaskVector.load(folder / VECTORS / f"{name}.safetensors") for name in names}
    first = MergedBackbone(base, vectors, granularity="layer")
    merges = {EMOTIONS: first, WORDS: first.twin()}
    for task, merged in merges.items():
        values = coefficients[task]
        if values.shape != merged.coefficients.shape:
            raise CheckpointError(
                f"{folder / 'model.json'} has coefficients {list(values.shape)} of task {task}; this base "
                f"and its vectors take {list(merged.coefficients.shape)}: fetch or train it again"
            )
        with torch.no_grad():
            merged.coefficients.copy_(values)
    return merges
