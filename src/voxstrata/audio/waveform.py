"""Samples as arrays: level, length, and the rate that everything in voxstrata is heard at."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

#: Rate of all waveforms in voxstrata, in Hz.
SAMPLE_RATE = 16_000

#: A recording with a lower peak than this share of full scale is too quiet for 16 bits.
QUIET = 1e-3


def peak_of(samples: NDArray[np.float32]) -> float:
    """The largest magnitude; 0 where there are no samples."""
    return max(float(samples.max()), -float(samples.min())) if len(samples) else 0.0


def leveled(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mono samples [N]; those with a peak over full scale, or under `QUIET`, scaled to a peak of 1.

    Rounding to 16 bits would clip the former, such as floats on the scale of integers, and lose the latter.

    >>> leveled(np.float32([8000, -16000])), leveled(np.float32([0.25, -0.5]))
    (array([ 0.5, -1. ], dtype=float32), array([ 0.25, -0.5 ], dtype=float32))
    """
    peak = peak_of(samples)
    if peak == 0 or QUIET <= peak <= 1:
        return samples
    return (samples.astype(np.float64) / peak).astype(np.float32)


def resample(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Mono samples [N] at any rate to `resampled_length(N, sample_rate)` samples at 16 kHz."""
    if sample_rate == SAMPLE_RATE:
        return np.ascontiguousarray(samples, dtype=np.float32)
    length = resampled_length(len(samples), sample_rate)
    resampled = soxr.resample(samples, sample_rate, SAMPLE_RATE)[:length]
    return np.pad(resampled, (0, length - len(resampled))).astype(np.float32, copy=False)


def resampled_length(samples: int, sample_rate: int) -> int:
    """How many samples at 16 kHz come of `samples` at `sample_rate` Hz, known before decoding.

    >>> resampled_length(48_000, 48_000), resampled_length(3, 44_100)
    (16000, 1)
    """
    return (2 * samples * SAMPLE_RATE + sample_rate) // (2 * sample_rate)
