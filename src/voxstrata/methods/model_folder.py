"""A trained model on disk: the encoder as a plain transformers folder, the head beside it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from voxstrata.backbone.export_folder import CARD, COEFFICIENTS
from voxstrata.backbone.locate import packaged
from voxstrata.errors import CheckpointError
from voxstrata.methods.calibration import Calibration
from voxstrata.methods.encoder_models import ClipModel
from voxstrata.methods.encoder_models import Model as Model
from voxstrata.methods.model_description import (
    DESCRIPTION,
    FORMAT,
    HEAD,
    VECTORS,
    checked,
    head_shapes,
    load_head,
    read_about,
)
from voxstrata.methods.model_kinds import ModelKind, describe_encoder, loading
from voxstrata.methods.registry import model_kinds
from voxstrata.methods.weight_hashes import require_saved, weight_hashes
from voxstrata.runs import TRAINING_CLIPS, require_free, write_json, written_whole
from voxstrata.vocabulary import Vocabulary

_OURS = {"encoder", VECTORS, HEAD, DESCRIPTION, COEFFICIENTS, CARD, TRAINING_CLIPS}


def save_model(model: Model, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes `encoder/`, `head.safetensors` and `model.json`, which tells the hashes of all weights.

    Args:
        model: its encoder plain or merged; a merged one is written as the merged weights.
        folder: new or empty, or one with an older model alone, which is replaced at the end.
        dtype: of the floating-point weights on disk; None keeps them.

    Raises:
        CheckpointError: if the folder holds something else, is a file, or cannot be written.
    """
    kind, folder = _kind_of(model), Path(folder)
    require_free(folder, overwrite=_is_ours(folder), error=CheckpointError)
    with written_whole(folder, failures=(SafetensorError,), error=CheckpointError) as partial:
        partial.mkdir()
        kind.save_encoder(model, partial, dtype)
        save_file(_head_tensors(kind, model, dtype), partial / HEAD, metadata={"format": "pt"})
        (partial / HEAD).chmod(0o644)
        write_json(partial / DESCRIPTION, {**_described(kind, model), "weights": weight_hashes(partial)})


def _kind_of(model: nn.Module) -> ModelKind:
    (kind,) = (kind for kind in model_kinds().values() if kind.holds(model))
    return kind


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a model that was saved here, and what runs and exports lay beside one."""
    return (folder / DESCRIPTION).is_file() and {path.name for path in folder.iterdir()} <= _OURS


def _head_tensors(
    kind: ModelKind, model: nn.Module, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """All tensors of a model but the encoder's, and a pretrained language model's own."""
    return {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else None).contiguous().clone()
        for name, tensor in kind.tensors(model).items()
    }


def _described(kind: ModelKind, model: Model) -> dict[str, Any]:
    stated = {"format": FORMAT, **describe_encoder(model.encoder)}
    if isinstance(model, ClipModel) and model.words != "plain":
        stated["words"] = model.words
    if model.calibration != Calibration():
        stated["calibration"] = model.calibration.as_dict()
    return stated | {"kind": kind.name} | kind.describe(model)


def find_model(source: str | Path) -> Path | None:
    """The model folder behind a run's folder, a model folder or a packaged name; None if there is none."""
    places = (Path(source) / "model", Path(source), packaged(str(source)))
    return next((place for place in places if place and (place / "model.json").is_file()), None)


def model_kind(folder: Path) -> str | None:
    """The name of its kind, without loading weights; None where it is not known."""
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


def load_model(folder: str | Path) -> Model:
    """A saved model, frozen and in eval mode.

    Raises:
        CheckpointError: if the folder holds no model, one of another format or a broken one, a head that
            does not fit, weights that no training gives, or others than were saved.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError(f"{folder} holds no model (no {DESCRIPTION}); give the model/ folder of a run")
    about, shapes = read_about(folder), head_shapes(folder)
    kinds = model_kinds()
    stated = checked(folder, about, {name: kind.parts for name, kind in kinds.items()}, shapes)
    kind = kinds[stated.kind]
    with ThreadPoolExecutor(1) as beside:
        hashed = beside.submit(require_saved, folder, about)
        model = kind.build(folder, stated, shapes, loading(stated))
        model.load_state_dict(load_head(folder, _head_tensors(kind, model)), strict=False)
        # Behind what tells more of a weight that is broken.
        hashed.result()
    if isinstance(model, ClipModel):
        model.words = stated.words
    prior, emotions = stated.calibration.prior, model.emotions
    if prior is not None and (emotions is None or set(prior) != set(emotions)):
        raise CheckpointError(
            f"{folder / DESCRIPTION} has a calibration whose prior is not over the model's emotions; fetch "
            "or train it again"
        )
    model.calibration = stated.calibration
    return model.requires_grad_(False).eval()
