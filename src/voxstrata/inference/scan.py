"""A first pass over a recording of any length: level, silence, band and loudness of each channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE, Remark, leveled, remarks_on_band, require_sound
from voxstrata.audio.blocks import unclicked
from voxstrata.audio.clicks import remarks_on_replaced
from voxstrata.audio.content import CANCELLED, FEWEST_VALUES, remarks_on_steps
from voxstrata.inference.given import Given

#: Length of a frame, in seconds and in samples at 16 kHz.
FRAME_S = 0.02
FRAME = round(FRAME_S * SAMPLE_RATE)
#: The band is looked at in stretches of so many seconds.
_BAND_S = 30
#: Power of a frame without any sound, in dB of full scale.
NO_POWER_DB = -120.0

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Track:
    """What is answered of a recording: one of its channels, or their mean.

    Args:
        channel: from 1; None: all of them.
        column: the channel that is read, from 0; None: the mean of all.
        gain: by which it is scaled, so that no sample is over full scale or all are too quiet.
        levels: [F] power of each frame of `FRAME_S` seconds, in dB of full scale, scaled so.
        remarks: what one should know of it.
        fault: why there is nothing to answer; "" where there is something.
    """

    channel: int | None
    column: int | None
    gain: float
    levels: NDArray[np.float32]
    remarks: tuple[Remark, ...]
    fault: str = ""

    def mono(self, block: Samples) -> Samples:
        """The track's samples [n] of a block [n, channels]."""
        mono = block.mean(axis=1) if self.column is None else block[:, self.column]
        return np.asarray(mono * np.float32(self.gain), np.float32)


@dataclass(frozen=True)
class Scan:
    """What the first pass found.

    Args:
        duration_s: of the recording, in seconds.
        tracks: one, or one a channel.
        remarks: on the file.
    """

    duration_s: float
    tracks: tuple[Track, ...]
    remarks: tuple[Remark, ...]


def scan(given: Given, *, split: bool) -> Scan:
    """Reads a recording once.

    Args:
        given: the recording.
        split: each channel is a track of its own; else their mean is, or the strongest where they cancel.

    Raises:
        AudioError: if it cannot be read.
        NoSound: if there is nothing but silence.
    """
    with given.blocks() as sound:
        channels, rate, file_remarks = sound.channels, sound.sample_rate, sound.remarks
        mixed = channels > 1 and not split
        columns = [_Column() for _ in range(channels + mixed)]
        counts = _Clicks()
        blocks = _wider(counts.cleaned(sound.blocks, rate), columns, mixed)
        frames, streams = 0, resampled_blocks(blocks, rate, len(columns))
        for block, samples in streams:
            frames += samples
            for k, column in enumerate(columns):
                column.listen(block[:, k])
    if not frames:
        require_sound(given.name, np.zeros(0, np.float32), rate)
    if split or channels == 1:
        tracks = [
            column.track(k + 1 if split else None, k, given.name, rate) for k, column in enumerate(columns)
        ]
    else:
        tracks = [_mixed(columns, given.name, rate)]
    if all(track.fault for track in tracks):
        columns[-1].require_sound(given.name, rate)
    return Scan(frames / rate, tuple(tracks), (*file_remarks, *counts.remarks()))


def _wider(blocks: Iterator[Samples], columns: list[_Column], mixed: bool) -> Iterator[Samples]:
    """Blocks, with the mean of their channels as a last column if asked; each column notes its samples."""
    for block in blocks:
        wide = np.column_stack([block, block.mean(axis=1)]).astype(np.float32) if mixed else block
        for k, column in enumerate(columns):
            column.note(wide[:, k])
        yield wide


def resampled_blocks(
    blocks: Iterator[Samples], sample_rate: int, channels: int
) -> Iterator[tuple[Samples, int]]:
    """Blocks [n, channels] at 16 kHz, each with how many samples at the old rate came in for it."""
    if sample_rate == SAMPLE_RATE:
        for block in blocks:
            yield block, len(block)
        return
    stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, channels, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block)).reshape(-1, channels), len(block)
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).reshape(-1, channels), 0


class _Clicks:
    """How many samples were clicks, as far as the recording was read."""

    def __init__(self) -> None:
        self.replaced = self.samples = 0

    def cleaned(self, blocks: Iterator[Samples], rate: int) -> Iterator[Samples]:
        """The blocks without clicks."""
        for block in blocks:
            clean = unclicked(block, rate)
            self.samples += block.size
            self.replaced += 0 if clean is block else int(np.count_nonzero(clean != block))
            yield clean

    def remarks(self) -> tuple[Remark, ...]:
        """Says how many, where there are any."""
        return remarks_on_replaced(self.replaced, self.samples)


class _Column:
    """What is known of a channel, or of the mean of all, as far as it was read."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf
        self.values = np.zeros(0, np.float32)
        self.powers: list[NDArray[np.float64]] = []
        self.rest = np.zeros(0, np.float32)
        self.band: list[Samples] = []
        self.narrow: list[tuple[Remark, ...]] = []

    def note(self, samples: Samples) -> None:
        """Takes samples [n] at the file's rate."""
        if not len(samples):
            return
        self.count += len(samples)
        self.total += float(samples.sum(dtype=np.float64))
        self.squares += float(np.dot(samples.astype(np.float64), samples))
        self.low, self.high = min(self.low, float(samples.min())), max(self.high, float(samples.max()))
        if len(self.values) < FEWEST_VALUES:
            self.values = np.unique(np.concatenate([self.values, samples]))[:FEWEST_VALUES]

    def listen(self, samples: Samples) -> None:
        """Takes samples [n] at 16 kHz."""
        samples = np.concatenate([self.rest, samples])
        whole = len(samples) // FRAME * FRAME
        self.rest = samples[whole:].copy()
        if not whole:
            return
        self.powers.append(_frame_powers(samples[:whole]))
        self.band.append(samples[:whole])
        if sum(map(len, self.band)) >= _BAND_S * SAMPLE_RATE:
            self._look_at_band()

    def variance(self) -> float:
        """Power about the mean."""
        return self.squares / self.count - (self.total / self.count) ** 2

    def require_sound(self, name: str, rate: int) -> None:
        """Refuses what is silent all through, as of a recording that is read at once."""
        require_sound(name, np.full(min(self.count, 2), self.low, np.float32), rate)

    def track(
        self, channel: int | None, column: int | None, name: str, rate: int, remarks: tuple[Remark, ...] = ()
    ) -> Track:
        """What was found."""
        peak = max(self.high, -self.low)
        gain = float(leveled(np.array([peak], np.float32))[0]) / peak if peak else 1.0
        if len(self.rest):
            self.powers.append(_frame_powers(self.rest))
            self.band.append(self.rest)
        self._look_at_band()
        power = np.concatenate([*self.powers, np.zeros(0)]) * gain**2
        steps = len(self.values) < FEWEST_VALUES and self.count >= 10 * FEWEST_VALUES
        if steps and self.low < self.high:
            remarks += remarks_on_steps(np.resize(self.values, 10 * FEWEST_VALUES))
        narrow = [found for found in self.narrow if found]
        if 2 * len(narrow) > len(self.narrow):
            remarks += narrow[0]
        fault = "silence" if self.low == self.high else ""
        return Track(channel, column, gain, _in_db(power), remarks, fault)

    def _look_at_band(self) -> None:
        """Looks at the band of what came since it was looked at last, where there is any sound."""
        samples = np.concatenate(self.band) if self.band else self.rest
        self.band = []
        if len(samples) and np.ptp(samples) > 0:
            self.narrow.append(remarks_on_band(samples))


def _mixed(columns: list[_Column], name: str, rate: int) -> Track:
    """The mean of the channels, or the strongest of those that cancel each other; see `audio.downmix`."""
    *parts, mean = columns
    powers = [part.variance() for part in parts]
    if mean.variance() * len(parts) >= CANCELLED * float(np.mean(powers)):
        return mean.track(None, None, name, rate)
    strongest = int(np.argmax(powers))
    detail = f"channel {strongest + 1} of {len(parts)} is used, not their mean"
    remark = Remark("channels cancel each other", detail)
    return parts[strongest].track(None, strongest, name, rate, (remark,))


def frame_levels(mono: Samples) -> NDArray[np.float32]:
    """Power of each frame of samples [N] at 16 kHz, in dB of full scale; the last frame may be shorter."""
    whole = len(mono) // FRAME * FRAME
    return _in_db(np.concatenate([_frame_powers(mono[:whole]), _frame_powers(mono[whole:])]))


def _frame_powers(samples: Samples) -> NDArray[np.float64]:
    """Mean squares of whole frames, or of a rest that is shorter than one."""
    if not len(samples):
        return np.zeros(0)
    squares = samples.astype(np.float64) ** 2
    powers: NDArray[np.float64] = squares.reshape(-1, min(FRAME, len(samples))).mean(axis=1)
    return powers


def _in_db(power: NDArray[np.float64]) -> NDArray[np.float32]:
    levels: NDArray[np.float32] = (10 * np.log10(np.maximum(power, 10 ** (NO_POWER_DB / 10)))).astype(
        np.float32
    )
    return levels
