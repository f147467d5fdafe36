"""Voice quality by signal processing: jitter, shimmer, spectral tilt, breath noise, level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

#: Full scale that no sample exceeds.
PEAK = 0.97
_KNEE = 0.7
_CYCLE_S = 1 / 150
_ENVELOPE_S = 0.02


def jitter(samples: Samples, amount: float, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Moves each glottal cycle a little in time and level (jitter and shimmer), [N] to [N].

    Args:
        samples: speech.
        amount: relative deviation of the period; the level deviates five times as much.
        sample_rate: in Hz.
        rng: noise.
    """
    knots = int(len(samples) / sample_rate / _CYCLE_S) + 2
    place = np.arange(len(samples), dtype=np.float32)
    grid = np.arange(knots) * np.float32(_CYCLE_S * sample_rate)
    shift = np.interp(place, grid, rng.standard_normal(knots) * amount * _CYCLE_S * sample_rate)
    level = np.interp(place, grid, 1 + np.clip(5 * amount * rng.standard_normal(knots), -0.5, 0.5))
    return (_read_between(samples, place + shift) * level).astype(np.float32)


def _read_between(samples: Samples, place: NDArray[np.floating]) -> Samples:
    """Samples at fractional places, by cubic interpolation (Catmull and Rom)."""
    whole = np.clip(np.floor(place).astype(np.int64), 1, len(samples) - 3)
    t = (place - whole).astype(np.float32)
    a, b, c, d = (samples[whole + k] for k in (-1, 0, 1, 2))
    cubic = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.asarray(cubic, np.float32)


def tilt(samples: Samples, slope_db: float, sample_rate: int) -> Samples:
    """Tilts the spectrum around 1 kHz, [N] to [N].

    Args:
        samples: speech.
        slope_db: dB per octave between 125 Hz and 8 kHz; positive is brighter.
        sample_rate: in Hz.
    """
    size = -(-len(samples) // 1024) * 1024  # lengths without large prime factors are fast
    frequency = np.fft.rfftfreq(size, 1 / sample_rate)
    octaves = np.log2(np.clip(frequency, 125, 8000) / 1000)
    gain = 10 ** (slope_db * octaves / 20)
    tilted = np.fft.irfft(np.fft.rfft(samples, size) * gain, size)
    return tilted[: len(samples)].astype(np.float32)


def breath(samples: Samples, level_db: float, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Adds high-passed noise that follows the envelope of the speech, [N] to [N].

    Args:
        samples: speech.
        level_db: of the noise relative to the speech.
        sample_rate: in Hz.
        rng: noise.
    """
    width = int(_ENVELOPE_S * sample_rate)
    total = np.cumsum(np.pad(np.abs(samples), (width, 0)), dtype=np.float64)
    envelope = (total[width:] - total[:-width]) / width
    noise = np.diff(rng.standard_normal(len(samples) + 1, dtype=np.float32)) * envelope
    scale = level(samples) / max(level(noise), 1e-9) * 10 ** (level_db / 20)
    return np.asarray(samples + scale * noise, np.float32)


def at_level(samples: Samples, level_db: float) -> Samples:
    """Sets the root mean square in dB re full scale, [N] to [N]; what would pass `PEAK` is bent, not cut."""
    scaled = samples * (10 ** (level_db / 20) / max(level(samples), 1e-9))
    size = np.abs(scaled)
    bent = _KNEE + (PEAK - _KNEE) * np.tanh((size - _KNEE) / (PEAK - _KNEE))
    return np.asarray(np.where(size > _KNEE, np.sign(scaled) * bent, scaled), np.float32)


def level(samples: NDArray[np.floating]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
