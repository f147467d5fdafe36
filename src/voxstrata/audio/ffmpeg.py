"""Decoding with PyAV (the extra `av`), given the format: it probes nothing and follows no names."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio.content import Remark
from voxstrata.errors import AudioError

#: Formats whose header states the length; for others FFmpeg estimates it.
_TELLS_LENGTH = frozenset(
    {"asf", "aiff", "ape", "avi", "caf", "flac", "matroska", "mov", "tta", "w64", "wav", "wv"}
)
#: A stream may end by so much before its header says: the last packets of an encoder, or rounding.
_SLACK_S, _SLACK = 0.1, 0.01
#: A frame that begins so much later than the one before ends leaves a gap.
_GAP_S = 0.05


class Undecodable(Exception):
    """Why FFmpeg does not read a file, in words."""


class MissingPyAV(AudioError):
    """A file that PyAV would read, which is not installed."""


class _Source:
    """A file as FFmpeg reads it: a place that no file has, as a broken header names it, is given by a number.

    PyAV prints the traceback of what a file's own methods raise.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The new place, or less than 0."""
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


class AvSound:
    """The first audio stream of an open file, decoded as it is read.

    Args:
        name: of the recording, for messages.
        av: the module.
        container: open.
        tells_length: its header states the length.

    Attributes:
        rate: in Hz. What the first frame has: of some codecs the header has another one.
        channels: of the first frame.
        declared_s: length that the header tells, in seconds; None where it does not.
        blocks: [n, channels] each, once.
        remarks: what one should know of the stream; complete when all blocks were read.
    """

    def __init__(self, name: str, av: Any, container: Any, *, tells_length: bool) -> None:
        if not container.streams.audio:
            raise AudioError(f"{name} has no audio stream; leave it out")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise Undecodable("there is no decoder for its codec")
        self.name = name
        self.rate: int = stream.rate or 0
        self.declared_s = _declared_s(container, stream) if tells_length else None
        self.remarks = [*_remarks_on_streams(len(container.streams.audio))]
        decoded = self._decoded(av, container, stream)
        first = next(decoded, None)
        self.channels: int = max(1, stream.channels) if first is None else first.shape[1]
        self.blocks = decoded if first is None else chain([first], decoded)

    def _decoded(self, av: Any, container: Any, stream: Any) -> Iterator[NDArray[np.float32]]:
        gaps, count = _Gaps(), 0
        try:
            for part in _planes(av, container, stream, gaps):
                self.rate, count = part.sample_rate, count + part.samples
                yield np.ascontiguousarray(part.to_ndarray().T, dtype=np.float32)
        except av.error.FFmpegError as fault:
            broken = fault.strerror or str(fault)
            if not count:
                raise Undecodable(broken) from None
            held_s = count / self.rate
            raise AudioError(
                f"{self.name} breaks off, or is broken, after {held_s:.1f} s ({broken}); copy it again"
            ) from None
        if not self.rate:
            raise Undecodable("it holds no frame of sound")
        held_s = count / self.rate
        if self.declared_s is not None and held_s < self.declared_s * (1 - _SLACK) - _SLACK_S:
            raise AudioError(
                f"{self.name} breaks off: {held_s:.1f} of {self.declared_s:.1f} s of sound; copy it again"
            )
        self.remarks += gaps.remarks()


@contextmanager
def open_av(file: BinaryIO, name: str, av_format: str) -> Iterator[AvSound]:
    """Opens a file to decode its first audio stream.

    Args:
        file: to be read.
        name: of the recording, for messages.
        av_format: FFmpeg's name for the container.

    Raises:
        MissingPyAV: if PyAV is not installed.
        AudioError: if there is no sound, or it breaks off; also while its blocks are read.
        Undecodable: if FFmpeg cannot decode it.
    """
    av = _pyav(name)
    file.seek(0)
    try:
        # Tags are no matter: any bytes may stand in them.
        with av.open(_Source(file), format=av_format, metadata_errors="replace") as container:
            yield AvSound(name, av, container, tells_length=av_format in _TELLS_LENGTH)
    except av.error.FFmpegError as fault:
        raise Undecodable(fault.strerror or str(fault)) from None


def decode_av(
    file: BinaryIO, name: str, av_format: str, most_values: int
) -> tuple[NDArray[np.float32], int, tuple[Remark, ...]]:
    """Decodes the first audio stream of a file.

    Args:
        file: see `open_av`.
        name: see `open_av`.
        av_format: see `open_av`.
        most_values: samples of all channels at most.

    Returns:
        Samples [N, channels], the sample rate in Hz, and what one should know of the stream.

    Raises:
        AudioError: see `open_av`; also if it is too long.
        Undecodable: see `open_av`.
    """
    with open_av(file, name, av_format) as sound:
        parts: list[NDArray[np.float32]] = []
        values = 0
        for part in sound.blocks:
            values += part.size
            if values > most_values:
                raise AudioError(f"{name} holds too much sound to be read at once; {CUT_IT}")
            parts.append(part)
        samples = np.concatenate(parts) if parts else np.zeros((0, sound.channels), np.float32)
        return samples, sound.rate, tuple(sound.remarks)


#: What to do with a recording that is too long.
CUT_IT = "cut it into shorter recordings"


def _pyav(name: str) -> Any:
    try:
        return import_module("av")
    except ImportError:
        raise MissingPyAV(
            f"{name} needs PyAV to be read; pip install 'voxstrata[av]', or convert it to wav or flac"
        ) from None


class _Gaps:
    """Time between frames that no frame fills, as they are decoded."""

    def __init__(self) -> None:
        self.missing_s = self.first_s = 0.0
        self._next_s: float | None = None

    def note(self, frame: Any) -> None:
        """The next frame."""
        if frame.pts is None or not frame.time_base or not frame.sample_rate:
            return
        start_s = float(frame.pts * frame.time_base)
        if self._next_s is not None and start_s > self._next_s + _GAP_S:
            self.first_s = self.first_s or self._next_s
            self.missing_s += start_s - self._next_s
        self._next_s = start_s + frame.samples / frame.sample_rate

    def remarks(self) -> tuple[Remark, ...]:
        """Says where there are any."""
        if not self.missing_s:
            return ()
        detail = f"its times leave out {self.missing_s:.2f} s, the first at {self.first_s:.1f} s"
        return (Remark("gaps", detail),)


def _planes(av: Any, container: Any, stream: Any, gaps: _Gaps) -> Iterator[Any]:
    """Decoded frames as float32, a plane a channel; all with rate and channels of the first."""
    planar = first = form = None
    for frame in container.decode(stream):
        gaps.note(frame)
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if planar is None or now != form:
            if planar is not None:
                yield from planar.resample(None)
            first, form = first or frame, now
            planar = av.AudioResampler(format="fltp", layout=first.layout, rate=first.sample_rate)
        yield from planar.resample(frame)
    if planar is not None:
        yield from planar.resample(None)


def _remarks_on_streams(count: int) -> tuple[Remark, ...]:
    if count < 2:
        return ()
    return (Remark("several sound tracks", f"it holds {count}; the first of them is read"),)


def _declared_s(container: Any, stream: Any) -> float | None:
    """Length of the stream as the header tells it, in seconds; None where it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(container.duration) / 1e6
    return None
