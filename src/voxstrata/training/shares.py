"""The batches that training reads, and a process's share of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Protocol

from torch import Tensor

from voxstrata.batches.batch import Batch
from voxstrata.batches.collate import no_clips
from voxstrata.batches.processes import Share


class Batches(Protocol):
    """What is trained on: batches as a function of the epoch, e.g. a `BatchSource`."""

    def batches_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        ...

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `skip`."""
        ...


def divided(batches: Batches, share: Share) -> Batches:
    """The same batches, of each the clips that fall to a process; as many batches for all of them.

    Args:
        batches: a source that has a method `shared` loads its share only; of others the whole batch is
            loaded, and divided.
        share: of the process.
    """
    if share.count == 1:
        return batches
    shared = getattr(batches, "shared", None)
    divided: Batches = shared(share) if shared is not None else _Divided(batches, share)
    return divided


class _Divided:
    """Batches that are loaded whole and then divided."""

    def __init__(self, batches: Batches, share: Share) -> None:
        self.batches = batches
        self.share = share

    def batches_per_epoch(self) -> int:
        return self.batches.batches_per_epoch()

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        for batch in self.batches.epoch(index, skip=skip):
            yield selected(batch, self.share.of(range(len(batch))))


def selected(batch: Batch, rows: list[int]) -> Batch:
    """Some clips of a batch, padded as before.

    Args:
        batch: B clips.
        rows: their places in it.
    """
    if not rows:
        return no_clips()
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    # States are [L, B, T, D]; in all other tensors the clips come first.
    kept: dict[str, Any] = {
        name: value[:, rows] if name == "states" else value[rows] for name, value in tensors.items()
    }
    return replace(batch, references=tuple(batch.references[row] for row in rows), **kept)
