"""Whole batches of one task after the other, from an endless source a task, balanced by seconds of audio.

HarmoniFuse (arXiv 2509.18570) trains by batches of alternating tasks; their balance is ours. The task of a
step is a function of (seed, step) alone, so all processes agree, and a resumed training sees the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from voxstrata.batches.batch import Batch
from voxstrata.batches.buckets import derived_seed
from voxstrata.batches.processes import Share
from voxstrata.batches.source import BatchSource
from voxstrata.errors import RecipeError

#: Steps through [0, 1) by the golden section: any run of steps is spread as evenly as can be.
_STRIDE = 0x9E3779B97F4A7C15
_CIRCLE = 1 << 64
#: Steps that are counted at once.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class TaskSchedule:
    """Which task a step is of.

    Each step has a place on a circle, of which each task holds an arc; a step moves on by the golden section,
    so that shares hold over any few steps, not only in the mean.

    Args:
        shares: task -> share of the steps, positive; they are brought to the sum 1.
        seed: of the place of step 0.

    Raises:
        RecipeError: if there is no task, or a share is not positive.

    >>> schedule = TaskSchedule({"asr": 2, "ser": 1}, seed=0)
    >>> [schedule.task(step) for step in range(6)], schedule.count("asr", 300)
    (['asr', 'asr', 'ser', 'asr', 'asr', 'ser'], 200)
    """

    shares: Mapping[str, float]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shares or min(self.shares.values()) <= 0:
            raise RecipeError(
                f"the tasks' shares are {dict(self.shares)}; at least one, all positive, are needed"
            )

    def task(self, step: int) -> str:
        """The task of a step."""
        place = (self._start + step * _STRIDE) % _CIRCLE
        return list(self.shares)[int(np.searchsorted(self._ends, np.uint64(place), side="right"))]

    def share(self, task: str) -> float:
        """Share of the steps that are of a task."""
        return self.shares[task] / sum(self.shares.values())

    def count(self, task: str, steps: int) -> int:
        """How many of the first steps are of a task."""
        index, found = list(self.shares).index(task), 0
        for first in range(0, steps, _BLOCK):
            numbers = np.arange(first, min(steps, first + _BLOCK), dtype=np.uint64)
            places = np.uint64(self._start) + numbers * np.uint64(_STRIDE)
            found += int((np.searchsorted(self._ends, places, side="right") == index).sum())
        return found

    @property
    def _start(self) -> int:
        return derived_seed(self.seed, "tasks")

    @property
    def _ends(self) -> np.ndarray:
        """Where the arcs of all tasks but the last one end, uint64."""
        shares = np.array(list(self.shares.values()), dtype=np.float64)
        ends = np.cumsum(shares / shares.sum())[:-1]
        return np.array([min(int(end * _CIRCLE), _CIRCLE - 1) for end in ends], dtype=np.uint64)


class Stream(Protocol):
    """Where a task's batches are read: its source, or states that are known of its clips."""

    def batches_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        ...

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `skip`."""
        ...

    def shared(self, share: Share) -> Stream:
        """The same batches, of each the clips that fall to one process."""
        ...


class _Sources:
    """Sources of several tasks, and what they tell together."""

    def __init__(self, sources: Mapping[str, BatchSource]) -> None:
        self.sources = dict(sources)
        self._streams: dict[str, Stream] = dict(sources)

    def read_from(self, streams: Mapping[str, Stream]) -> Self:
        """The same batches, those of some tasks read elsewhere.

        Args:
            streams: task -> its batches, as many and in the order of its source.
        """
        other = copy.copy(self)
        other._streams = {**self._streams, **streams}
        return other

    def shared(self, share: Share) -> Self:
        """The same batches, of each the clips that fall to one process."""
        return self.read_from({name: stream.shared(share) for name, stream in self._streams.items()})

    @property
    def left_out(self) -> dict[str, int]:
        """Clips that lack what their task needs, by task and reason."""
        return {
            f"{name}, {reason}": count
            for name, source in self.sources.items()
            for reason, count in source.left_out.items()
        }

    def plan(self, epoch: int) -> list[list[str]]:
        """The clips' ids of each batch of one pass over each task's source, task by task."""
        return [ids for source in self.sources.values() for ids in source.plan(epoch)]

    def _batches_in_all(self) -> int:
        return sum(source.batches_per_epoch() for source in self.sources.values())


class TaskBatches(_Sources):
    """Training batches of several tasks; a pure function of (seed, batch number).

    Each task's source goes through its own epochs, as often as its share asks for. All batches of one step
    are of one task. An epoch here is as many batches as all sources have, rounded up to whole steps.

    Args:
        sources: task -> its batches, made for that task.
        shares: task -> share of the seconds of audio; absent: 1.
        seed: of the order of tasks.
        accumulate: batches a step, as the training loop is given.

    Raises:
        RecipeError: if a share is not positive, or of a task without a source.
    """

    def __init__(
        self,
        sources: Mapping[str, BatchSource],
        shares: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        accumulate: int = 1,
    ) -> None:
        super().__init__(sources)
        given = dict(shares or {})
        if unknown := sorted(given.keys() - self.sources.keys()):
            raise RecipeError(f"no task {', '.join(unknown)} to give a share; tasks are {', '.join(sources)}")
        # A task whose batches are twice as long gets half as many of them.
        steps = {name: given.get(name, 1.0) / source.mean_batch_s() for name, source in sources.items()}
        self.schedule = TaskSchedule(steps, seed)
        self.accumulate = accumulate

    def batches_per_epoch(self) -> int:
        """Batches in an epoch; whole steps."""
        return -(-self._batches_in_all() // self.accumulate) * self.accumulate

    def task(self, number: int) -> str:
        """The task of a batch, counted from the start of training."""
        return self.schedule.task(number // self.accumulate)

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, each with its task.

        Args:
            index: epoch index, from 0.
            skip: batches already consumed; they are not decoded again.

        Raises:
            AudioError: if a file cannot be decoded.
        """
        count = self.batches_per_epoch()
        first = index * count + skip
        step, inside = divmod(first, self.accumulate)
        with ExitStack() as opened:
            streams: dict[str, Generator[Batch, None, None]] = {}
            for number in range(first, first + count - skip):
                name = self.task(number)
                if name not in streams:
                    done = self.schedule.count(name, step) * self.accumulate
                    done += inside * (self.schedule.task(step) == name)
                    streams[name] = opened.enter_context(closing(_endless(self._streams[name], done)))
                yield next(streams[name])


def _endless(source: Stream, done: int) -> Generator[Batch, None, None]:
    """A source's batches, epoch after epoch, without the first `done`."""
    epoch, skip = divmod(done, source.batches_per_epoch())
    while True:
        yield from source.epoch(epoch, skip=skip)
        epoch, skip = epoch + 1, 0


class TasksInTurn(_Sources):
    """All clips of several tasks once, task by task: for validation and predictions.

    Args:
        sources: task -> its batches, made for that task.
    """

    def batches_per_epoch(self) -> int:
        """Batches of all tasks."""
        return self._batches_in_all()

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of all tasks, without the first `skip`."""
        for source in self._streams.values():
            there = source.batches_per_epoch()
            if skip < there:
                yield from source.epoch(index, skip=skip)
            skip = max(0, skip - there)

    def clips(self) -> dict[str, int]:
        """Clips of each task."""
        return {name: len(source) for name, source in self.sources.items()}
