"""Processes that share each batch: which clips fall to which, and the few places where they meet.

A launcher (torchrun) starts them. All of them plan the same global batches, take their share of each, and add
up what has to be known of the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch import distributed as dist

from voxstrata.errors import ProcessLost, TrainingError

Item = TypeVar("Item")

#: Waiting is no fault: one process may fill a cache for hours. One that died is noticed by its connection.
_PATIENCE = timedelta(days=7)
#: Gradients are added up in pieces, so that no second copy of all of them is needed.
_PIECE_VALUES = 2**22


@dataclass(frozen=True)
class Share:
    """What falls to one of several processes.

    Args:
        index: of the process, from 0.
        count: processes in all.
    """

    index: int = 0
    count: int = 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th item; nothing where there are fewer items than processes before this one.

        >>> [Share(index, 3).of("abcd") for index in range(3)]
        [['a', 'd'], ['b'], ['c']]
        """
        return list(items[self.index :: self.count])


def interleaved(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """The items that `Share.of` gave to all processes, in their order.

    >>> interleaved([["a", "d"], ["b"], ["c"]])
    ['a', 'b', 'c', 'd']
    """
    return [share[place] for place in range(len(shares[0])) for share in shares if place < len(share)]


@contextmanager
def meeting() -> Iterator[None]:
    """Around a collective operation.

    Raises:
        ProcessLost: if another process is no longer there.
    """
    try:
        yield
    except RuntimeError as fault:
        raise ProcessLost(
            "another process of this training ended without a word: it was killed, by lack of memory for "
            "example; the same command goes on from the last checkpoint"
        ) from fault


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Whatever meets the others has to be called by all of them, in the same order.

    Args:
        device: that this process computes on.
        share: what of each batch falls to it.
    """

    device: torch.device
    share: Share = Share()
    _groups: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def join(cls) -> Processes:
        """Meets the processes that a launcher started with this one; without a launcher it is alone.

        Raises:
            ProcessLost: if they cannot be reached.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1 and not dist.is_initialized():
            return cls(PartialState().device)
        if not dist.is_initialized():
            # Numbers and waiting go over gloo, since waiting on a GPU keeps it busy.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with meeting():
                dist.init_process_group(backend, timeout=_PATIENCE)
        return cls(PartialState().device, Share(dist.get_rank(), dist.get_world_size()))

    @property
    def count(self) -> int:
        """How many there are."""
        return self.share.count

    @property
    def store(self) -> Any:
        """A small dictionary that all processes see; not to be asked for where there is one process."""
        return dist.distributed_c10d._get_default_store()

    @property
    def leads(self) -> bool:
        """Whether this one writes the run folder and speaks to the user."""
        return self.share.index == 0

    def rows(self, values: Sequence[float]) -> list[list[float]]:
        """The numbers that each process brings, as many from each: [processes][values]."""
        if self.count == 1:
            return [list(values)]
        table = torch.zeros(self.count, len(values), dtype=torch.float64)
        table[self.share.index] = torch.tensor(values, dtype=torch.float64)
        with meeting():
            dist.all_reduce(table)
        rows: list[list[float]] = table.tolist()
        return rows

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return flag if self.count == 1 else any(row[0] for row in self.rows([float(flag)]))

    def gathered(self, value: Item) -> list[Item]:
        """The values of all processes, in all of them."""
        values: list[Any] = [value] * self.count
        if self.count > 1:
            with meeting():
                dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Item) -> Item:
        """The value of the process that leads, in all of them."""
        values = [value]
        if self.count > 1:
            with meeting():
                dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def wait(self) -> None:
        """Until all processes have come here."""
        self.rows([0.0])

    def group(self, members: int) -> Any:
        """The first processes as a group of their own; None for one of them, which needs nobody."""
        if members <= 1:
            return None
        if members not in self._groups:
            with meeting():
                self._groups[members] = dist.new_group(list(range(members)), timeout=_PATIENCE)
        return self._groups[members]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Puts the sum over all processes into each parameter's gradient.

        A gradient that is missing here counts as zero; one that is missing in all of them stays missing,
        as for a head that had no batch.
        """
        if self.count == 1:
            return
        parameters = list(parameters)
        found = self.rows([float(parameter.grad is not None) for parameter in parameters])
        gradients = []
        for parameter, flags in zip(parameters, zip(*found, strict=True), strict=True):
            if any(flags):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for piece in _pieces(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in piece])
            with meeting():
                dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in piece])
            for gradient, summed in zip(piece, parts, strict=True):
                gradient.copy_(summed.view_as(gradient))

    def require_equal(self, value: Any, what: str) -> None:
        """Checks that all processes hold the same.

        Raises:
            TrainingError: naming a process that does not.
        """
        odd = [index for index, other in enumerate(self.gathered(value)) if other != value]
        if odd:
            raise TrainingError(
                f"{what}: process {odd[0]} differs from process {self.share.index}; all need the same "
                "program, recipe, corpora and run folder"
            )


def _pieces(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The same tensors in lists of bounded size and one dtype."""
    piece: list[Tensor] = []
    for gradient in gradients:
        full = sum(other.numel() for other in piece) + gradient.numel() > _PIECE_VALUES
        if piece and (full or gradient.dtype != piece[0].dtype):
            yield piece
            piece = []
        piece.append(gradient)
    if piece:
        yield piece
