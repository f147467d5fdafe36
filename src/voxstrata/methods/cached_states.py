"""The states of a frozen encoder, computed once per clip and read from disk in every epoch.

Head A is linear before its mean over frames, and nothing random lies before that mean. So the layers' means
over a clip's valid frames, [L, D], are all that it needs of a clip: mean(W h + b) = W mean(h) + b. Any other
head, and a language model, gets all frames.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.batches.batch import Batch
from voxstrata.batches.collate import no_clips
from voxstrata.batches.processes import Share
from voxstrata.batches.source import BatchSource
from voxstrata.errors import CheckpointError, counted
from voxstrata.heads.emotion import masked_mean
from voxstrata.heads.layer_sum import LayerSum
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.encoder_models import Backbone, ClipModel
from voxstrata.runs import written_whole

#: One row [L, D] per clip, or all its frames.
Form = Literal["pooled", "frames"]

_VALUE_BYTES = 4
_COUNT_BYTES = 8


@dataclass(frozen=True)
class FrozenLayers:
    """A frozen encoder, and what is kept of its layers.

    Args:
        encoder: has nothing that is trained.
        form: "pooled" or "frames".
        device: that the encoder is on.
        layer_sum: the layers are kept as it weighs them; None: as they come.
    """

    encoder: Backbone | ParallelEncoders
    form: Form
    device: torch.device
    layer_sum: LayerSum | None = None

    @classmethod
    def of(cls, model: ClipModel) -> FrozenLayers:
        """What this model's head needs: pooled layers for head A."""
        form: Form = "pooled" if getattr(model.head, "pools_first", False) else "frames"
        return cls(model.encoder, form, model.layer_sum.logits.device, model.layer_sum)

    def file_bytes(self, source: BatchSource) -> int:
        """Disk that the states of a source's clips take."""
        rows = len(source)
        if self.form == "frames":
            rows = int(self.encoder.frame_lengths(torch.tensor(source.sample_counts(_order(source)))).sum())
        return _file_bytes(rows, self.encoder.num_layers, self.encoder.hidden_size, len(source))

    @torch.no_grad()
    def rows(self, batch: Batch, *, bf16: bool) -> list[Tensor]:
        """States of each clip as they are kept: B tensors [T, L, D], T = 1 where they are pooled."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            states = self.encoder(batch.waveforms, batch.lengths)
            prepared = (self._prepared(layer).float() for layer in states.layers)
            if self.form == "pooled":
                mask = states.mask()
                pooled = torch.stack([masked_mean(layer, mask) for layer in prepared], dim=1)
                return list(pooled.unsqueeze(1))
            whole = list(prepared)
        return [
            torch.stack([layer[row, :count] for layer in whole], dim=1)
            for row, count in enumerate(states.lengths.tolist())
        ]

    def key(self, source: BatchSource, *, bf16: bool) -> str:
        """Fingerprint of all that the states depend on."""
        encoder = self.encoder
        encoders = encoder.encoders if isinstance(encoder, ParallelEncoders) else (encoder,)
        normalized = self.layer_sum is not None and self.layer_sum.normalize
        how = [self.form, normalized, bf16, self.device.type]
        told = f"{how} {source.fingerprint()} {' '.join(map(_identity, encoders))}"
        return hashlib.sha256(told.encode()).hexdigest()

    def _prepared(self, layer: Tensor) -> Tensor:
        return layer if self.layer_sum is None else self.layer_sum.prepared(layer)


class CachedStates:
    """The batches of a source, in its order, with known states in the place of audio.

    Nothing that grows with the clips is held but their places in the file.

    Args:
        source: whose batches.
        path: a file of `cached_states`: float32 [rows, L, D] clip after clip in the order of epoch 0,
            then int64 [clips] rows of each.
        layers: L.
        size: D.

    Raises:
        CheckpointError: if the file is not of these clips and sizes.
    """

    def __init__(self, source: BatchSource, path: Path, *, layers: int, size: int) -> None:
        self.source, self.path, self.layers, self.size = source, path, layers, size
        self._share = Share()
        ids = _order(source)
        with path.open("rb") as file:
            held = file.seek(0, os.SEEK_END)
            file.seek(max(0, held - len(ids) * _COUNT_BYTES))
            counts = np.fromfile(file, np.int64)
        if held != _file_bytes(int(counts.sum()), layers, size, len(ids)) or len(counts) != len(ids):
            raise CheckpointError(
                f"{path} does not hold the states of these {counted(len(ids), 'clip')}; remove it"
            )
        starts = np.cumsum(counts) - counts
        self._places = dict(zip(ids, zip(starts.tolist(), counts.tolist(), strict=True), strict=True))

    def batches_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        return self.source.batches_per_epoch()

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `skip`."""
        with self.path.open("rb") as file:
            for ids in map(self._share.of, self.source.plan(index)[skip:]):
                if not ids:
                    yield no_clips()
                    continue
                rows = [self._rows(file, name) for name in ids]
                frames = torch.tensor([len(clip) for clip in rows])
                yield replace(self.source.without_audio(ids), states=_padded(rows), frames=frames)

    def shared(self, share: Share) -> CachedStates:
        """The same batches, of each the clips that fall to one process."""
        states = copy.copy(self)
        states._share = share
        return states

    def _rows(self, file: BufferedReader, name: str) -> Tensor:
        start, count = self._places[name]
        rows = np.empty((count, self.layers, self.size), np.float32)
        # Read and not mapped: pages of a mapped file count as memory of the process.
        file.seek(start * self.layers * self.size * _VALUE_BYTES)
        if file.readinto(rows.data) != rows.nbytes:
            raise CheckpointError(f"{self.path} became shorter while it was read; remove it and start again")
        return torch.from_numpy(rows)


def cached_states(
    frozen: FrozenLayers,
    source: BatchSource,
    folder: Path,
    *,
    budget_bytes: int,
    bf16: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> CachedStates:
    """Computes the states of all clips of a source, unless the folder holds them already.

    A file has the fingerprint of all that they depend on in its name: weights, normalisation, form, precision
    and clips. It is written aside and renamed when it is complete.

    Args:
        frozen: the encoder, and what of its layers.
        source: gives each clip the same samples in every epoch.
        folder: made if need be; no other process writes into it.
        budget_bytes: that the file may take.
        bf16: run the encoder in bfloat16 where autocast deems it safe, as the loop does with that precision.
        announce: called with a line before the encoder is run.

    Raises:
        CheckpointError: if the encoder or the samples change over epochs, or there is no room.
    """
    if any(parameter.requires_grad for parameter in frozen.encoder.parameters()):
        raise CheckpointError("the encoder is trained, so its states change; leave the cache out")
    if source.variation is not None:
        raise CheckpointError(f"{source.variation}: nothing can be kept, leave the cache out")
    path = folder / f"states-{frozen.key(source, bf16=bf16)[:32]}"
    if not path.is_file():
        _check_room(frozen, source, folder, budget_bytes)
        needed = gigabytes(frozen.file_bytes(source))
        announce(
            f"the encoder runs once over {counted(len(source), 'clip')}; {needed} of {frozen.form} states "
            "are kept"
        )
        _write(path, frozen, source, bf16=bf16)
        source.drop_audio()
    return CachedStates(source, path, layers=frozen.encoder.num_layers, size=frozen.encoder.hidden_size)


def gigabytes(count: int) -> str:
    """A size for messages."""
    return f"{count / 1e9:.3g} GB"


def _order(source: BatchSource) -> list[str]:
    return [name for ids in source.plan(0) for name in ids]


def _file_bytes(rows: int, layers: int, size: int, clips: int) -> int:
    return rows * layers * size * _VALUE_BYTES + clips * _COUNT_BYTES


def _identity(encoder: Backbone) -> str:
    plain = encoder if isinstance(encoder, SpeechEncoder) else encoder.base
    weights = fingerprint(encoder.weights())
    config = plain.model.config.to_json_string(use_diff=False)
    window = "" if plain.window == "clip" else f" {plain.window}"
    return f"{weights} {plain.normalize} {plain.final_norm}{window} {config}"


def _check_room(frozen: FrozenLayers, source: BatchSource, folder: Path, budget_bytes: int) -> None:
    needed = frozen.file_bytes(source)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > min(budget_bytes, free):
        raise CheckpointError(
            f"the encoder's {frozen.form} states of {counted(len(source), 'clip')} take {gigabytes(needed)}; "
            f"{gigabytes(budget_bytes)} are allowed and {gigabytes(free)} are free in {place}: allow more "
            "(in a recipe: cache_gb), free space, or leave the cache out"
        )


def _write(path: Path, frozen: FrozenLayers, source: BatchSource, *, bf16: bool) -> None:
    counts = []
    with (
        written_whole(path, error=CheckpointError) as partial,
        partial.open("wb") as file,
        closing(_epoch(source)) as batches,
    ):
        for batch in batches:
            for rows in frozen.rows(batch.to(frozen.device), bf16=bf16):
                file.write(rows.cpu().numpy().data)
                counts.append(len(rows))
        file.write(np.array(counts, np.int64).data)


def _epoch(source: BatchSource) -> Generator[Batch, None, None]:
    """As a generator, so that leaving early ends the source's work at once."""
    yield from source.epoch(0)


def _padded(clips: Sequence[Tensor]) -> Tensor:
    """B tensors [T, L, D] -> [L, B, T, D], zero behind each clip's end."""
    _, layers, size = clips[0].shape
    states = torch.zeros(layers, len(clips), max(len(clip) for clip in clips), size)
    for row, clip in enumerate(clips):
        states[:, row, : len(clip)] = clip.transpose(0, 1)
    return states
