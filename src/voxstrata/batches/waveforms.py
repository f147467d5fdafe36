"""Waveforms of clips: decoded once and kept while there is room; crops that depend on (seed, epoch, clip)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio import load_audio
from voxstrata.batches.buckets import derived_seed
from voxstrata.batches.clips import BatchClip

_FULL_SCALE = 32_768


class WaveformCache:
    """Decoded clips in memory, as int16, until it is full; the rest is decoded each time.

    A waveform is the same whether it was kept or not, so results do not depend on the room there is:
    all are rounded to 16 bits (lossless for 16-bit recordings at 16 kHz). What is too loud or too quiet for
    16 bits comes scaled from `load_audio`, as it does in prediction from files.

    Args:
        capacity_bytes: room for samples.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self._samples: dict[str, NDArray[np.int16]] = {}

    def waveform(self, clip: BatchClip) -> NDArray[np.float32]:
        """Samples of a clip, float32 [N] in [-1, 1) at 16 kHz.

        Raises:
            AudioError: if the file cannot be decoded.
        """
        samples = self._samples.get(clip.reference.id)
        if samples is None:
            samples = _decode(clip)
            if self.held_bytes + samples.nbytes <= self.capacity_bytes:
                self._samples[clip.reference.id] = samples
                self.held_bytes += samples.nbytes
        return samples.astype(np.float32) / np.float32(_FULL_SCALE)


def _decode(clip: BatchClip) -> NDArray[np.int16]:
    if clip.whole:
        audio = load_audio(clip.path)
    else:
        audio = load_audio(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
    return np.clip(np.round(audio * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def crop_start(length: int, samples: int, *, seed: int, epoch: int, clip: str, random: bool) -> int:
    """Where the used part of a clip begins, in samples; 0 where it is used whole.

    Args:
        length: samples of the clip.
        samples: of the part, at most.
        seed: stream of random numbers.
        epoch: epoch index.
        clip: the clip's id; with seed and epoch it decides where the part starts.
        random: a random part; otherwise the one in the middle.
    """
    spare = length - samples
    if spare <= 0:
        return 0
    return derived_seed(seed, epoch, clip) % (spare + 1) if random else spare // 2
