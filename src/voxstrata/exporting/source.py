"""What is exported: a run, a model folder or an encoder, and what of it an export leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.backbone.layouts import describe_left_out
from voxstrata.backbone.origin import find_origin
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.inference.models import find_models
from voxstrata.inference.published_classifier import PublishedClassifier
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.model_folder import Model, find_model, load_model
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        name: as it was given.
        folder: the model folder; None where it is an encoder alone.
        model: None where it is an encoder alone.
        encoder: None where it is a model.
        left_out: what belongs to it and is in no export, in words.
        notes: what else is reported.
    """

    name: str
    folder: Path | None
    model: Model | None
    encoder: SpeechEncoder | None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """The run's folder, where it is one."""
        if self.folder is None:
            return Path(self.name)
        return self.folder.parent if self.folder.name == "model" else self.folder

    @property
    def any_encoder(self) -> SpeechEncoder | MergedBackbone | ParallelEncoders:
        """The encoder of the model, or the encoder alone."""
        found = self.encoder if self.model is None else self.model.encoder
        assert found is not None
        return found

    @property
    def first_encoder(self) -> SpeechEncoder:
        """An encoder for its settings; the first of several."""
        encoder: Any = self.any_encoder
        if isinstance(encoder, MergedBackbone):
            return encoder.base
        return next(module for module in encoder.modules() if isinstance(module, SpeechEncoder))


def read_source(name: str) -> Source:
    """Loads what is exported.

    Args:
        name: a run or model folder, a packaged name, or any encoder.

    Raises:
        CheckpointError: if there is nothing of that name, or it is broken.
    """
    folder = find_model(name)
    if folder is None:
        encoder = load_backbone(name)
        dropped = find_origin(name).checkpoint.left_out
        return Source(name, None, None, encoder, (describe_left_out(dropped),) if dropped else ())
    try:
        (model, *others), notes = find_models(name)
    except CheckpointError as fault:
        # The model itself must be whole; what lies beside it need not.
        reason = f"it cannot be read: {fault}"
        return Source(name, folder, load_model(folder), None, ("what writes the run's words",), (reason,))
    assert not isinstance(model, WhisperTranscriber | PublishedClassifier)
    kinds = [
        "Whisper's decoder of its base, which writes the run's words"
        if isinstance(other, WhisperTranscriber)
        else "the ASR expert with its CTC head, which writes the run's words"
        for other in others
    ]
    return Source(name, folder, model, None, tuple(kinds), tuple(notes))


def require_elsewhere(name: str, folder: Path | None, out: Path) -> None:
    """Refuses to write over what is exported, or into it.

    Args:
        name: of what is exported.
        folder: its model folder; None without one.
        out: the folder to write.

    Raises:
        VoxstrataError: if one lies in the other.
    """
    place = out.resolve()
    sources = [Path(name), *([] if folder is None else [folder])]
    within = (folder or Path(name)).resolve()
    if any(source.exists() and source.resolve().is_relative_to(place) for source in sources):
        raise VoxstrataError(f"{out} is, or holds, what is to be exported; give a folder elsewhere")
    if within.is_dir() and place.is_relative_to(within):
        raise VoxstrataError(f"{out} lies in what is to be exported; give a folder elsewhere")
