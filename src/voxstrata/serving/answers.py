"""One recording after the other through one model: a queue with an end, limits, and what the page shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio import NotAudio
from voxstrata.errors import VoxstrataError
from voxstrata.inference.given import Given, Recording, given
from voxstrata.inference.recognition import Recognition
from voxstrata.inference.recognizer import Recognizer
from voxstrata.inference.rows import reason

#: Columns of a waveform's picture.
COLUMNS = 400


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Args:
        megabytes: of an upload, at most.
        minutes: of a recording, at most.
        waiting: recordings that may be uploaded, wait or be answered at a time.
    """

    megabytes: float = 50.0
    minutes: float = 10.0
    waiting: int = 256

    @property
    def most_bytes(self) -> int:
        """Of an upload."""
        return int(self.megabytes * 1e6)


class TooLarge(VoxstrataError):
    """An upload of more bytes, or a recording of more minutes, than are taken."""


class Busy(VoxstrataError):
    """As many recordings wait as may."""


class Failed(VoxstrataError):
    """A recording that has no answer, though nothing is known to be wrong with it."""


def status_of(fault: Exception) -> int:
    """The HTTP status for a fault: 4xx where the request can be mended, 503 to try again, 500 for ours."""
    statuses = ((TooLarge, 413), (NotAudio, 415), (Busy, 503), (Failed, 500), (VoxstrataError, 400))
    return next((status for kind, status in statuses if isinstance(fault, kind)), 500)


@dataclass(frozen=True)
class Answer:
    """What was recognised, and what a picture of it needs.

    Args:
        found: the answer.
        levels: [C] the largest absolute sample of each of `COLUMNS` stretches, over the largest of all.
        clip: [N] mono at 16 kHz of a short recording, else its first seconds.
    """

    found: Recognition
    levels: NDArray[np.float32]
    clip: NDArray[np.float32]


class Answers:
    """Answers recordings in the order in which they come, one at a time.

    Args:
        recognizer: that answers; for one thread at a time, which is that of this class.
        limits: what is taken.
    """

    def __init__(self, recognizer: Recognizer, limits: Limits) -> None:
        self.recognizer = recognizer
        self.limits = limits
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="voxstrata-answers")
        self._lock = Lock()
        self.waiting = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, from the first byte of an upload to its answer.

        Raises:
            Busy: if there is none.
        """
        with self._lock:
            if self.waiting >= self.limits.waiting:
                raise Busy(f"{self.waiting} recordings wait already; send this one again in a minute")
            self.waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self.waiting -= 1

    def recognition(self, recording: Recording, *, timeline: bool) -> Future[Recognition]:
        """The answer to a recording.

        Args:
            recording: in any form; an open file is read, and not closed.
            timeline: whether a short recording is answered in segments, too.
        """
        return self._worker.submit(self._recognition, recording, timeline)

    def answer(self, recording: Recording) -> Future[Answer]:
        """The answer to a recording in segments, with its waveform."""
        return self._worker.submit(self._answer, recording)

    def run(self, work: Any, *arguments: Any) -> Future[Any]:
        """Whatever else needs the model, in the same queue."""
        return self._worker.submit(work, *arguments)

    def close(self) -> None:
        """Lets what waits go unanswered."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _recognition(self, recording: Recording, timeline: bool) -> Recognition:
        with given(recording) as found:
            return self._found(found, timeline)

    def _answer(self, recording: Recording) -> Answer:
        with given(recording) as found:
            answered = self._found(found, True)
            return Answer(answered, *_levels_and_clip(found, self.recognizer.longest_s))

    def _found(self, found: Given, timeline: bool) -> Recognition:
        if found.is_longer_than(60 * self.limits.minutes):
            raise TooLarge(
                f"{found.name} is longer than {self.limits.minutes:g} minutes, the limit here; cut it, "
                "or use `voxstrata predict`, which has none"
            )
        try:
            return self.recognizer(found, timeline=timeline)
        except VoxstrataError:
            raise
        except Exception as fault:
            raise Failed(f"{found.name}: {reason(fault)}") from fault


def _levels_and_clip(found: Given, clip_s: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The levels of a recording, and its first seconds; see `Answer`."""
    if not found.is_longer_than(clip_s):
        clip, _ = found.whole()
        return _levels([clip]), clip
    peaks: list[NDArray[np.float32]] = []
    with found.blocks() as sound:
        step = max(1, sound.sample_rate // 50)
        for block in sound.blocks:
            loudest = np.abs(block).max(axis=1)
            whole = loudest[: len(loudest) // step * step].reshape(-1, step)
            peaks.append(whole.max(axis=1))
    return _levels(peaks), np.zeros(0, np.float32)


def _levels(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    samples = np.abs(np.concatenate(parts))
    edges = np.linspace(0, len(samples), COLUMNS + 1).astype(int)
    levels = np.array([samples[a : max(b, a + 1)].max(initial=0.0) for a, b in itertools.pairwise(edges)])
    shares: NDArray[np.float32] = (levels / max(float(levels.max()), 1e-9)).astype(np.float32)
    return shares
