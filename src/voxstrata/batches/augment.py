"""Augmentation of training waveforms: tempo, pitch, reverberation, noise. A function of a random stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE
from voxstrata.config.data import Augmentation

# Not audiomentations, which draws from global generators: a clip's noise follows from seed, epoch and id.
Samples = NDArray[np.float32]

_WINDOW, _HOP = 512, 128
#: Reverberation: seconds in which the sound falls by 60 dB, and level of the direct sound over the rest, dB.
_DECAY_S, _DIRECT_DB = (0.1, 0.7), (-2.0, 12.0)


@dataclass(frozen=True, eq=False)
class Augmented:
    """An augmented waveform.

    Args:
        samples: [N'].
        clean: [N'] the same without reverberation and noise.
        tempo: what was at t seconds is now at t / tempo.
    """

    samples: Samples
    clean: Samples
    tempo: float


def augment(
    samples: Samples, options: Augmentation, rng: np.random.Generator, *, at_least: int = 0
) -> Augmented:
    """Changes a waveform [N] at 16 kHz at random.

    Whatever the options are, the first four draws settle tempo, pitch, whether there is reverberation, and
    whether there is noise. Reverberation and noise then draw more, so each clip needs a stream of its own.

    Args:
        samples: [N].
        options: how far it is changed.
        rng: random stream.
        at_least: samples of the answer; what is too short is filled up with silence before echo and noise.
    """
    tempo = float((1 + options.tempo) ** rng.uniform(-1, 1))
    pitch = float(2 ** (options.pitch * rng.uniform(-1, 1) / 12))
    reverberant, noisy = rng.random() < options.reverb, rng.random() < options.noise
    clean = changed(samples, tempo=tempo, pitch=pitch)
    played = len(samples) / max(1, len(clean))
    if len(clean) < at_least:
        clean = np.pad(clean, (0, at_least - len(clean)))
    heard = reverberated(clean, rng) if reverberant else clean
    if noisy:
        heard = with_noise(heard, float(rng.uniform(*options.noise_db)), rng)
    return Augmented(heard, clean, played)


def changed(samples: Samples, *, tempo: float = 1.0, pitch: float = 1.0) -> Samples:
    """Plays `tempo` times as fast and `pitch` times as high: [N] to about [N / tempo]."""
    import soxr

    if pitch != 1.0:
        samples = soxr.resample(samples, SAMPLE_RATE * pitch, SAMPLE_RATE, quality="MQ")
    stretch = pitch / tempo
    return samples if stretch == 1.0 else stretched(samples, stretch)


def stretched(samples: Samples, factor: float) -> Samples:
    """Lasts `factor` times as long at the same pitch, by a phase vocoder (Flanagan and Golden, 1966).

    Args:
        samples: [N].
        factor: positive.

    Returns:
        [round(N x factor)].
    """
    from scipy import fft

    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, (_WINDOW, 2 * _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    spectra = fft.rfft(frames * window, axis=1)
    # Phases in turns, so that whole turns go by rounding.
    size, phase = np.abs(spectra), np.angle(spectra) / np.float32(2 * np.pi)
    place = np.arange(0, len(spectra) - 1, 1 / factor)
    before = place.astype(np.int64)
    share = (place - before).astype(np.float32)[:, None]
    advance = (_HOP / _WINDOW * np.arange(spectra.shape[1])).astype(np.float32)
    turn = phase[1:] - phase[:-1] - advance
    turn += advance - np.round(turn)
    heard = np.cumsum(np.vstack([phase[:1], turn[before[:-1]]]), axis=0, dtype=np.float64)
    angle = (2 * np.pi * (heard - np.round(heard))).astype(np.float32)
    magnitude = (1 - share) * size[before] + share * size[before + 1]
    spectra = magnitude * (np.cos(angle) + 1j * np.sin(angle))
    pieces = fft.irfft(spectra, axis=1) * window
    parts = _WINDOW // _HOP
    total = np.zeros((len(pieces) + parts - 1, _HOP), np.float32)
    for part in range(parts):
        total[part : part + len(pieces)] += pieces[:, part * _HOP : (part + 1) * _HOP]
    # The squared window of hop N / 4 sums to 1.5 everywhere.
    start, count = round(_WINDOW * factor), round(len(samples) * factor)
    whole = np.pad(total.reshape(-1) / np.float32(1.5), (0, _WINDOW))
    return whole[start : start + count]


def reverberated(samples: Samples, rng: np.random.Generator) -> Samples:
    """Adds a room's echo, [N] to [N]: decaying noise after the direct sound, which stays in its place."""
    decay_s, direct_db = float(rng.uniform(*_DECAY_S)), float(rng.uniform(*_DIRECT_DB))
    length = int(decay_s * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[0] = 0
    tail *= 10 ** (-direct_db / 20) / np.linalg.norm(tail)
    tail[0] = 1
    size = 1 << (len(samples) + length - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)[: len(samples)]
    return np.asarray(wet, np.float32)


def with_noise(samples: Samples, snr_db: float, rng: np.random.Generator) -> Samples:
    """Adds noise whose power falls by 0 to 6 dB an octave, [N] to [N].

    Args:
        samples: speech.
        snr_db: signal-to-noise ratio.
        rng: random stream.
    """
    size = 1 << (len(samples) - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, size)[: len(samples)]
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    scale = np.sqrt(power / max(float(np.mean(np.square(noise))), 1e-20)) * 10 ** (-snr_db / 20)
    return np.asarray(samples + scale * noise, np.float32)
