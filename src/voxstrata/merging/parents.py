"""The checkpoints that a merge is made from: their headers, and what lies beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from voxstrata.backbone.checkpoints import Checkpoint, open_checkpoint
from voxstrata.backbone.containers import open_container
from voxstrata.backbone.declared_base import declared_base
from voxstrata.backbone.families.family import Family
from voxstrata.backbone.fingerprint import file_sha256
from voxstrata.backbone.folder import CONFIG
from voxstrata.backbone.locate import is_missing_run, locate, packaged
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError
from voxstrata.merging.licences import PACKAGED, licence_of, read_card
from voxstrata.merging.parts import holds_decoder
from voxstrata.merging.run_base import bases_of

#: In the header of a saved task vector, which is no checkpoint: its tensors are differences.
_TASK_VECTOR = "voxstrata-task-vector"
_ANY = re.compile("")
#: Where a run's model has its encoder, and the file of its head beside that.
_ENCODER, _HEAD = "encoder", "head.safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: Packaged name -> the model of the hub that it is.
_ON_THE_HUB = {"whisper-tiny.en": "openai/whisper-tiny.en"}
#: Names that transformers gives to classes without names.
_NAMELESS = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class Parent:
    """A checkpoint whose tensors are listed, not yet read.

    Args:
        name: "base", or the vector's.
        given: as the user named it.
        place: its folder or file.
        checkpoint: its tensors; with the decoder, where it has one.
        config: content of config.json; empty without one.
        licence: as its card states it; None where it does not.
        declared: what it says that it was made from; None where it does not.
    """

    name: str
    given: str
    place: Path
    checkpoint: Checkpoint
    config: Mapping[str, Any]
    licence: str | None
    declared: str | None

    @classmethod
    def open(cls, name: str, given: str, family: Family | None = None, *, download: bool = True) -> Parent:
        """Lists the tensors of a checkpoint.

        Args:
            name: "base", or the vector's.
            given: a packaged name, folder, file, run or hub id.
            family: of the encoder that it should be of, where that is known.
            download: whether what is not here yet may be fetched.

        Raises:
            CheckpointError: if it is not there, or holds no speech encoder.
        """
        place = locate(given, download=download)
        checkpoint = open_checkpoint(place, family, decoder=True)
        if str(checkpoint.settings.get("format", "")).startswith(_TASK_VECTOR):
            raise CheckpointError(
                f"{checkpoint.path} is a saved task vector, a difference of checkpoints; give the checkpoint "
                "that it was taken from"
            )
        folder = checkpoint.path.parent
        told = folder / CONFIG
        config = (
            read_json_object(told, error=CheckpointError, advice="fetch it again") if told.is_file() else {}
        )
        card = read_card(folder)
        declared = declared_base(checkpoint)
        if declared is None and isinstance(card.get("base_model"), str):
            declared = card["base_model"]
        licence = PACKAGED.get(given) if packaged(given) else licence_of(card)
        return cls(name, given, place, checkpoint, config, licence, declared)

    @property
    def folder(self) -> Path:
        """The folder that its weights lie in."""
        return self.checkpoint.path.parent

    @property
    def title(self) -> str:
        """Its name for others: a hub id, or the last part of its path."""
        if packaged(self.given):
            return _ON_THE_HUB.get(self.given, self.given)
        if _HUB_ID.fullmatch(self.given) and not Path(self.given).exists():
            return self.given
        place = Path(self.given)
        return place.resolve().name if place.name in ("", "..", "encoder", "model") else place.name

    @property
    def published_name(self) -> str | None:
        """The hub id or packaged name that it is, or that a run was trained from."""
        for source in (self.given, *(one.source for one in bases_of(self.given))):
            if packaged(source) is not None:
                return _ON_THE_HUB.get(source, source)
            if _HUB_ID.fullmatch(source) and not Path(source).exists() and not is_missing_run(source):
                return source
        return None

    @property
    def head_beside(self) -> dict[str, str]:
        """Tensors of the head that lies beside a run's encoder, in no merge -> what they are."""
        file = self.folder.parent / _HEAD
        if self.folder.name != _ENCODER or not file.is_file():
            return {}
        return dict.fromkeys(open_container(file, _ANY).shapes, f"the run's head, in {_HEAD}")

    @property
    def left_out(self) -> dict[str, str]:
        """What it holds beside the backbone -> what that is."""
        return {**self.checkpoint.left_out, **self.head_beside}

    def fingerprint(self) -> str:
        """Of its encoder's tensors, whatever file they lie in, as `backbone.fingerprint` takes it."""
        return open_checkpoint(self.place, self.checkpoint.family).fingerprint()

    @property
    def has_decoder(self) -> bool:
        """Whether there is a decoder among its tensors."""
        return holds_decoder(self.checkpoint.family, self.checkpoint.all_shapes())

    @property
    def files(self) -> tuple[Path, ...]:
        """Its weight files."""
        return tuple(sorted(set(self.checkpoint.container.places.values()))) or (self.checkpoint.path,)

    def hashes(self) -> dict[str, str]:
        """Name of each weight file -> SHA-256 of its bytes, in hexadecimal."""
        return {path.name: file_sha256(path) for path in self.files}

    def formats(self) -> tuple[str, ...]:
        """The number formats of its encoder's weights."""
        container, stored = self.checkpoint.container, self.checkpoint.stored
        keys = list(stored.values()) or list(container.types)
        return tuple(sorted({container.types[key] for key in keys if _is_float(container.types[key])}))

    def stored_formats(self, name: str) -> tuple[str, ...]:
        """The number formats that one tensor is stored in; of a LoRA adapter, its factors'."""
        container, lora = self.checkpoint.container, self.checkpoint.lora
        keys = [self.checkpoint.stored[name]] if name in self.checkpoint.stored else []
        keys += lora.factors.get(name, ()) if lora is not None else ()
        return tuple(container.types[key] for key in keys)

    def labels(self) -> tuple[str, ...]:
        """Names of its head's classes, or the characters of its CTC head; empty where it names none."""
        characters = self.folder / "vocab.json"
        if any(what == "CTC head" for what in self.checkpoint.left_out.values()) and characters.is_file():
            told = read_json_object(characters, error=CheckpointError, advice="fetch it again")
            return tuple(sorted(map(str, told)))
        names = self.config.get("id2label")
        if not isinstance(names, Mapping):
            return ()
        labels = tuple(str(label)[:60] for label in names.values())
        return () if all(map(_NAMELESS.fullmatch, labels)) else labels

    def require_fit(self, base: Parent, *, decoder: bool) -> None:
        """Refuses an expert whose tensors are not those of the base.

        Args:
            base: that it is to be merged into.
            decoder: whether the decoder is merged.

        Raises:
            CheckpointError: naming the layers, or the missing, superfluous or misshapen tensors.
        """
        family = base.checkpoint.family
        ours, theirs = base.checkpoint.all_shapes(), self.checkpoint.all_shapes()
        for copy, original in family.tied.items():
            ours.pop(copy, None)
            if copy in theirs and original in ours:
                ours[copy] = ours[original]
        expected = {name: torch.empty(shape, device="meta") for name, shape in ours.items()}
        if not decoder:
            expected = without(expected, family.decoder_parts)
        elif not self.has_decoder and not self.checkpoint.partial:
            raise CheckpointError(
                f"{self.checkpoint.path} holds no decoder; merge the encoder alone (--parts encoder)"
            )
        self.checkpoint.check(expected)

    def encoder_alone(self) -> Parent:
        """The same with its decoder left out."""
        if not self.has_decoder:
            return self
        return replace(self, checkpoint=open_checkpoint(self.place, self.checkpoint.family))


def without(names: Mapping[str, Any], starts: tuple[str, ...]) -> dict[str, Any]:
    """The entries whose names do not start so."""
    return {name: value for name, value in names.items() if not name.startswith(starts)}


def same_file(one: Parent, other: Parent) -> bool:
    """Whether two checkpoints are one and the same on disk."""
    return any(a.samefile(b) for a in one.files for b in other.files)


def _is_float(kind: str) -> bool:
    return kind.startswith(("float", "bfloat"))
