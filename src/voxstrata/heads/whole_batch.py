"""Modules whose result hangs on all clips of a batch together, also where several processes share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from voxstrata.batches.processes import meeting


class WholeBatch(nn.Module):
    """Marks a module that needs the other processes' clips of a batch.

    `group`: the processes that have clips of the current batch; None where this one has all of them. The
    training loop sets it; a process without clips does not call the module.
    """

    group: Any = None


@contextmanager
def sharing(modules: Sequence[WholeBatch], group: Any) -> Iterator[None]:
    """Inside, the modules' batches are those of all processes of a group together."""
    for module in modules:
        module.group = group
    try:
        yield
    finally:
        for module in modules:
            module.group = None


class _Added(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        summed = values.detach().clone()
        with meeting():
            dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.contiguous().clone()
        with meeting():
            dist.all_reduce(summed, group=ctx.group)
        return summed, None


def added(values: Tensor, group: Any) -> Tensor:
    """The sum of a tensor over the processes of a group, differentiable in all of them; None: as it is."""
    add: Callable[..., Tensor] = _Added.apply
    return values if group is None else add(values, group)


def all_rows(rows: Tensor, group: Any) -> Tensor:
    """The rows of all processes of a group under each other: [B, ...] -> [all B, ...], differentiable."""
    if group is None:
        return rows
    place = dist.get_rank(group)
    counts = torch.zeros(dist.get_world_size(group), device=rows.device)
    counts[place] = len(rows)
    known = [int(count) for count in added(counts, group).tolist()]
    before, behind = sum(known[:place]), sum(known[place + 1 :])
    blank = rows.new_zeros(1, *rows.shape[1:])
    return added(
        torch.cat([blank.expand(before, *rows.shape[1:]), rows, blank.expand(behind, *rows.shape[1:])]), group
    )


class WholeBatchNorm(nn.BatchNorm1d, WholeBatch):
    """Batch normalisation of [B, D] over the clips of the whole batch, on any device.

    torch's `SyncBatchNorm` needs a GPU. A batch of one clip has no variance; it is normed as in eval mode.
    """

    def forward(self, clips: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        if self.group is None:
            if self.training and len(clips) == 1:
                return F.batch_norm(
                    clips, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
                )
            normalized: Tensor = super().forward(clips)
            return normalized
        if not self.training:
            return super().forward(clips)
        wide = clips.double()
        count = wide.new_full((1,), len(clips))
        sums = added(torch.cat([count, wide.sum(0), wide.square().sum(0)]), self.group)
        total = sums[:1].detach()
        mean, square = (sums[1:] / total).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        whitened = ((wide - mean) * torch.rsqrt(variance + self.eps)).to(clips.dtype)
        return whitened * self.weight + self.bias

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, with the unbiased variance as torch does."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
