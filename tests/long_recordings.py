"""Long recordings made in a test: bursts of voice at known times, in silence or noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
Spans = list[tuple[float, float]]


def burst(seed: int, seconds: float, rate: int = RATE, level: float = 0.3) -> np.ndarray:
    """Pulses through two resonances, whose loudness goes up and down as that of syllables does."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    wave = 0.02 * rng.normal(size=count)
    wave[:: rate // int(rng.integers(90, 250))] += 1.0
    ringing_s = np.arange(round(0.02 * rate)) / rate
    formants = sum(np.sin(2 * np.pi * hertz * ringing_s) for hertz in (500, 1500))
    wave = np.convolve(wave, np.exp(-ringing_s / 0.004) * formants)[:count] + 0.01 * rng.normal(size=count)
    time_s = np.arange(count) / rate
    wave *= 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time_s + rng.uniform(0, 6))
    return (level * wave / np.abs(wave).max()).astype(np.float32)


def with_bursts(
    spans: Spans, seconds: float, *, rate: int = RATE, noise: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Samples [N] with a burst in each of the spans."""
    rng = np.random.default_rng(seed)
    samples = (noise * rng.normal(size=round(seconds * rate))).astype(np.float32)
    for k, (start_s, end_s) in enumerate(spans):
        start = round(start_s * rate)
        wave = burst(seed + k, end_s - start_s, rate)[: len(samples) - start]
        samples[start : start + len(wave)] += wave
    return samples


def write_long(path: Path, seconds: float, *, rate: int = RATE, every_s: float = 8.0) -> Path:
    """A recording of any length, in which a voice speaks for most of every eight seconds."""
    piece = np.concatenate([burst(7, 0.8 * every_s, rate), np.zeros(round(0.2 * every_s * rate), np.float32)])
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as file:
        left = round(seconds * rate)
        while left > 0:
            file.write(piece[:left])
            left -= len(piece)
    return path
