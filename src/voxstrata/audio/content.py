"""What a recording holds, looked at in one place for `corpus prepare`, `predict` and training alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio.waveform import SAMPLE_RATE, leveled
from voxstrata.errors import AudioError

#: The mean of C channels keeps 1 / C of their power where they are independent, or where one of them alone
#: sounds. With less than this share of that they cancel each other. Power is taken as the square of the mean
#: magnitude, which a click hardly changes.
CANCELLED = 0.1

#: Power above a cut-off that a wide band has at least, against that of the voice, in dB. Over 550 clips of
#: four corpora it is -36 at the least; of copies at 8 kHz in 16 bits -62 at the most, but for quiet ones.
NARROW_DB = -48.0
# Variance of the error of rounding to 16 bits; with no more than twice that there is nothing else.
_ROUNDING = 2.0**-30 / 12
#: Cut-offs that are looked for, and the band above each that must be empty, in Hz.
BANDS = ((4_000, 4_400, 7_600), (6_000, 6_400, 7_600))
_VOICE_HZ = (200, 3_600)
_FRAME_S = 0.032

#: Sound that lasts less in all is no speech, but clicks: one frame of a speech encoder.
SHORTEST_SOUND_S = 0.025
#: So far from the value at rest a sample sounds: half a step of 16 bits, or this share of the peak if it is
#: less. 520 clips of four corpora sound for 0.7 s at the least.
_AT_REST, _AT_REST_SHARE = 2.0**-16, 1e-3
#: With fewer different values it is noise of one or a few steps of the recorder, or a clipped signal.
#: 520 clips of four corpora have 414 at the least; speech with a peak of 16 steps of 16 bits has more too.
FEWEST_VALUES = 16


@dataclass(frozen=True)
class Remark:
    """What one should know of a recording that is used all the same.

    Args:
        kind: in a few words, the same for all recordings of which it is true.
        detail: of this one.
    """

    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class NotAudio(AudioError):
    """A file that is no recording, or one that cannot be decoded."""


class NoSound(AudioError):
    """A recording without samples, or with nothing but silence."""


def downmix(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[Remark, ...]]:
    """Mean over channels, [N, channels] to [N]; of channels that cancel each other the strongest one.

    Power is measured about the median, so that a constant offset counts for nothing.

    >>> tone = np.sin(np.arange(1000, dtype=np.float32))
    >>> mono, remarks = downmix(np.stack([tone, -tone], axis=1))
    >>> np.array_equal(mono, tone), str(remarks[0])
    (True, 'channels cancel each other: channel 1 of 2 is used, not their mean')
    """
    channels = samples.shape[1]
    if channels == 1 or not len(samples):
        return samples[:, 0], ()
    with np.errstate(over="ignore"):
        mixed: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mixed).all():
        mixed = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    powers = [_power(samples[:, k]) for k in range(channels)]
    if _power(mixed) * channels >= CANCELLED * np.mean(powers):
        return mixed, ()
    strongest = int(np.argmax(powers))
    detail = f"channel {strongest + 1} of {channels} is used, not their mean"
    return samples[:, strongest], (Remark("channels cancel each other", detail),)


def _power(samples: NDArray[np.float32]) -> float:
    """Square of the mean distance from the median."""
    rest = float(np.median(samples[:: 1 + len(samples) // 100_000]))
    with np.errstate(over="ignore"):
        return float(np.abs(samples - rest).mean(dtype=np.float64)) ** 2


def require_sound(name: str, mono: NDArray[np.float32], sample_rate: int) -> None:
    """Refuses what has nothing to hear: a model would answer all the same.

    Args:
        name: of the recording, for the message.
        mono: [N].
        sample_rate: in Hz.

    Raises:
        NoSound: if there are no samples, all have the same value, or nearly all, but for clicks.
    """
    if not len(mono):
        raise NoSound(f"no samples in {name}; leave it out or mend it")
    if mono.min() == mono.max():
        value = "zero" if mono[0] == 0 else f"{mono[0]:g}"
        raise NoSound(f"all samples are {value} in {name}: silence; leave it out or record it again")
    sounding = sounding_samples(mono)
    # What is as short as that in all is too short, not silent.
    if sounding < min(SHORTEST_SOUND_S * sample_rate, len(mono) / 10):
        raise NoSound(
            f"all but {sounding:,} of {len(mono):,} samples are silent in {name}: clicks, but no speech; "
            "leave it out or record it again"
        )


def sounding_samples(mono: NDArray[np.float32]) -> int:
    """How many samples [N] are away from their value at rest, the median."""
    rest = float(np.median(mono[:: 1 + len(mono) // 100_000]))
    least = min(_AT_REST, _AT_REST_SHARE * max(rest - float(mono.min()), float(mono.max()) - rest))
    return int(np.count_nonzero(mono > rest + least) + np.count_nonzero(mono < rest - least))


def remarks_on_steps(mono: NDArray[np.float32]) -> tuple[Remark, ...]:
    """Says where a recording has hardly any values, as the noise of an input that nothing is connected to.

    Speech may be recognised from it, so it is no fault.

    Args:
        mono: [N].
    """
    # Of most recordings the first piece tells.
    values: NDArray[np.float32] = mono[:0]
    for start in range(0, len(mono), 1 << 12):
        values = np.unique(np.concatenate([values, mono[start : start + (1 << 12)]]))
        if len(values) >= FEWEST_VALUES:
            return ()
    # A few samples have no more values than there are of them.
    if len(mono) < 10 * FEWEST_VALUES:
        return ()
    detail = f"its samples take {len(values)} different values: noise, or a clipped signal"
    return (Remark("few different values", detail),)


def remarks_on_band(samples: NDArray[np.float32], sample_rate: int = SAMPLE_RATE) -> tuple[Remark, ...]:
    """Says where a recording has nothing in its upper band, as a telephone's or a copy at 8 kHz.

    Args:
        samples: [N], mono.
        sample_rate: in Hz.
    """
    frame = 2 * round(_FRAME_S * sample_rate / 2)
    if len(samples) < frame or not samples.any():
        return ()
    samples = leveled(samples)
    frames = np.lib.stride_tricks.sliding_window_view(samples, frame)[::frame]
    window = np.hanning(frame).astype(np.float32)
    power = np.zeros(frame // 2 + 1)
    # A minute at a time.
    for start in range(0, len(frames), 4096):
        spectra = np.fft.rfft(frames[start : start + 4096] * window, axis=1)
        power += (spectra.real**2 + spectra.imag**2).sum(axis=0, dtype=np.float64)
    power /= len(frames) * float((window.astype(np.float64) ** 2).sum())
    hertz = np.fft.rfftfreq(frame, 1 / sample_rate)

    def mean(low: float, high: float) -> float:
        band = power[(hertz > low) & (hertz < high)]
        # Above half of the rate there is nothing.
        return float(band.mean()) if len(band) else 0.0

    least = max(mean(*_VOICE_HZ) * 10 ** (NARROW_DB / 10), 2 * _ROUNDING)
    for cutoff, low, high in BANDS:
        if mean(low, high) < least:
            detail = f"nothing above {cutoff / 1000:g} kHz, as on a telephone; models learn from wider bands"
            return (Remark("narrow band", detail),)
    return ()
