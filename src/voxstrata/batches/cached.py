"""What an encoder gives for a clip in every epoch alike: computed once, and read from disk after that.

`KeptStates` says what that is. A method says which it has (`methods.method`): all layers of a frozen encoder
(`FrozenLayers`), or what lies before the first tensor that a task vector changes (`Front`).
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voxstrata.batches.batch import Batch
from voxstrata.batches.collate import no_clips
from voxstrata.batches.processes import Processes, Share
from voxstrata.batches.source import BatchSource
from voxstrata.errors import CheckpointError, counted
from voxstrata.runs import written_whole

_VALUE_BYTES = 4
#: Of a clip in a file, beside its values: samples, size and time of change of its recording.
_NUMBERS = 3
#: Of a file. An interrupted run goes on with the file that was being written.
_FILE_BYTES = 2**26


class NoRoom(CheckpointError):
    """There is less space than states take."""


class KeptStates(ABC):
    """What is kept of each clip: float32 [T, *row], the same in every epoch."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What computes it, for messages."""

    @property
    @abstractmethod
    def row(self) -> tuple[int, ...]:
        """The shape of a frame."""

    @abstractmethod
    def frames(self, samples: Tensor) -> Tensor:
        """T of clips with these many samples, [B] both."""

    @abstractmethod
    def computed(self, batch: Batch) -> list[Tensor]:
        """[T, *row] of each clip of a batch."""

    @abstractmethod
    def added(self, batch: Batch, clips: Sequence[Tensor]) -> Batch:
        """A batch without audio, with what is kept of its clips."""

    @abstractmethod
    def identity(self) -> str:
        """Differs where anything differs that the values depend on, but for the clips."""

    def smaller(self) -> KeptStates | None:
        """What takes less space and saves less time, where there is something."""
        return None

    def size(self, samples: Sequence[int]) -> int:
        """Bytes of a file with clips of these many samples."""
        frames = int(self.frames(torch.tensor(samples)).sum())
        return frames * prod(self.row) * _VALUE_BYTES + len(samples) * _NUMBERS * 8


@dataclass(frozen=True)
class _File:
    """States of some clips: the batches of epoch 0 from number `first` on, by the ids of their clips."""

    path: Path
    first: int
    batches: Sequence[Sequence[str]]
    size: int

    @property
    def ids(self) -> list[str]:
        """Its clips, in the order of their states."""
        return [*chain(*self.batches)]


class CachedStates:
    """The batches of a source, in its order, with kept states in the place of audio; see `cached_states`.

    Its folder is named by all that the states depend on: weights, settings, precision and clips. A file holds
    the clips of some batches of epoch 0: float32 values clip after clip, then int64 [clips, 3]. It is written
    aside and renamed when it is complete. In memory is nothing that grows with the clips but their ids and
    places.

    Args:
        kept: what is kept of a clip.
        source: whose batches.
        folder: that the folder of these states is in.
        precision: of the computation.

    Attributes:
        files: in the order of their batches.
        size: bytes of all of them.
    """

    def __init__(self, kept: KeptStates, source: BatchSource, folder: Path, precision: str) -> None:
        self.kept, self.source = kept, source
        about = f"{precision} {kept.identity()} {source.fingerprint()}"
        self.path = folder / f"kept-{hashlib.sha256(about.encode()).hexdigest()[:32]}"
        self.files = [*self._planned()]
        self.size = sum(file.size for file in self.files)
        self._share = Share()
        #: Clip -> file, first byte there, samples.
        self._places: dict[str, tuple[Path, int, int]] = {}

    def _planned(self) -> Iterator[_File]:
        plan = self.source.plan(0)
        first, size = 0, 0
        for number, ids in enumerate(plan, start=1):
            size += self.kept.size(self.source.sample_counts(ids))
            if size >= _FILE_BYTES or number == len(plan):
                yield _File(self.path / f"{first:06d}-{number:06d}.f32", first, plan[first:number], size)
                first, size = number, 0

    def batches_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        return self.source.batches_per_epoch()

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `skip`."""
        for ids in map(self._share.of, self.source.plan(index)[skip:]):
            if not ids:
                yield replace(no_clips(), task=self.source.options.task)
                continue
            lengths = torch.tensor([self._places[name][2] for name in ids])
            batch = replace(self.source.without_audio(ids), lengths=lengths)
            yield self.kept.added(batch, [self._clip(name) for name in ids])

    def shared(self, share: Share) -> CachedStates:
        """The same batches, of each the clips that fall to one process."""
        states = copy.copy(self)
        states._share = share
        return states

    def open(self) -> None:
        """Finds each clip in the files.

        Raises:
            CheckpointError: if a file is not what was written, or a recording has changed since.
        """
        for file in self.files:
            path, ids = file.path, file.ids
            numbers = np.zeros((len(ids), _NUMBERS), np.int64)
            with path.open("rb") as stored:
                held = stored.seek(0, os.SEEK_END)
                stored.seek(max(0, held - numbers.nbytes))
                stored.readinto(numbers.data)
            samples: list[int] = numbers[:, 0].clip(0, 2**40).tolist()
            if held != self.kept.size(samples):
                raise CheckpointError(
                    f"{path} does not hold the states of these {counted(len(ids), 'clip')}; remove it"
                )
            changed = (numbers[:, 1:] != self.source.recordings(ids)).any(axis=1)
            if changed.any():
                raise CheckpointError(
                    f"the recording of clip {ids[int(changed.argmax())]!r} has changed since its states were "
                    f"kept in {self.path}; put the old one back, or remove that folder"
                )
            values = self.kept.frames(torch.tensor(samples)) * prod(self.kept.row) * _VALUE_BYTES
            starts: list[int] = (values.cumsum(0) - values).tolist()
            self._places |= {
                name: (path, start, count) for name, start, count in zip(ids, starts, samples, strict=True)
            }

    def _clip(self, name: str) -> Tensor:
        path, start, samples = self._places[name]
        frames = int(self.kept.frames(torch.tensor([samples])))
        values = np.empty((frames, *self.kept.row), np.float32)
        # Read and not mapped: pages of a mapped file count as memory of the process.
        with path.open("rb") as file:
            file.seek(start)
            if file.readinto(values.data) != values.nbytes:
                raise CheckpointError(f"{path} became shorter while it was read; remove it and start again")
        return torch.from_numpy(values)


def cached_states(
    kept: KeptStates,
    source: BatchSource,
    folder: Path,
    *,
    budget_bytes: int,
    bf16: bool = False,
    announce: Callable[[str], None] = lambda line: None,
    processes: Processes | None = None,
) -> CachedStates:
    """Computes what is kept of all clips of a source, unless the folder holds it already.

    Args:
        kept: what is kept of a clip.
        source: gives each clip the same samples in every epoch.
        folder: made if need be; no other training writes into it.
        budget_bytes: that it may take on the disk.
        bf16: compute in bfloat16 where autocast deems it safe, as the loop does with that precision.
        announce: called with a line before anything is computed.
        processes: that train together, and compute a share of the files each; None: this one, on the CPU.

    Raises:
        NoRoom: if there is no room; in all processes alike.
        CheckpointError: if samples change over epochs, a file cannot be written or is not what was written,
            or a recording has changed since.
    """
    if source.variation is not None:
        raise CheckpointError(f"{source.variation}: nothing can be kept, leave the cache out")
    processes = processes or Processes(torch.device("cpu"))
    device = processes.device
    states = CachedStates(kept, source, folder, f"{bf16} {device.type}")
    missing = not all(file.path.is_file() for file in states.files)
    if lack := processes.from_leader(_lack_of_room(states, budget_bytes) if missing else None):
        raise NoRoom(lack)
    if missing:
        takes = _gigabytes(states.size)
        announce(f"{kept.name} runs once over {counted(len(source), 'clip')}; {takes} of states are kept")
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for file in processes.share.of(states.files):
            if not file.path.is_file():
                _write(file, states, device)
    source.drop_audio()
    processes.wait()
    states.open()
    return states


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


def _lack_of_room(states: CachedStates, budget_bytes: int) -> str | None:
    """What to say where the states take more than there is."""
    there = sum(path.stat().st_size for path in states.path.glob("*.f32"))
    place = next(path for path in states.path.absolute().parents if path.exists())
    free = shutil.disk_usage(place).free
    if states.size <= budget_bytes and states.size - there <= free:
        return None
    clips = counted(len(states.source), "clip")
    return (
        f"what {states.kept.name} gives for {clips} takes {_gigabytes(states.size)}; "
        f"{_gigabytes(budget_bytes)} are allowed and {_gigabytes(free)} are free in {place}: allow more "
        "(in a recipe: cache_gb), free space, or leave the cache out"
    )


def _write(file: _File, states: CachedStates, device: torch.device) -> None:
    recordings = states.source.recordings(file.ids)
    samples: list[int] = []
    with (
        written_whole(file.path, error=CheckpointError) as partial,
        partial.open("wb") as stored,
        closing(_epoch(states.source, file.first)) as epoch,
    ):
        for batch in islice(epoch, len(file.batches)):
            for clip in states.kept.computed(batch.to(device)):
                stored.write(clip.cpu().contiguous().numpy().data)
            samples += batch.lengths.tolist()
        stored.write(np.column_stack([np.array(samples, np.int64), recordings]).data)


def _epoch(source: BatchSource, skip: int) -> Generator[Batch, None, None]:
    """As a generator, so that leaving early ends the source's work at once."""
    yield from source.epoch(0, skip=skip)
