"""From a voice and a delivery to what espeak-ng and the signal processing are told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxstrata.corpora.synthetic.voices import Voice

#: Steps of espeak's pitch dial to a semitone (0 to 100 spans about 14 semitones).
SEMITONE = 100 / 14


@dataclass(frozen=True)
class Prosody:
    """What espeak-ng and the signal processing are told for one clip.

    Args:
        rate_wpm: espeak's rate, words a minute.
        pitch_dial: espeak's pitch, 0 to 100; 50 is the voice's own.
        range_dial: espeak's range, 0 to 100.
        word_gap: espeak's gap between words, units of 10 ms.
        pause_s: silence at the phrase boundary.
        loudness_db: level of the speech, dB re full scale (root mean square).
        tilt_db: dB per octave around 1 kHz.
        breath_db: breath noise re speech, dB.
        jitter: relative deviation of the glottal period.
    """

    rate_wpm: int
    pitch_dial: int
    range_dial: int
    word_gap: int
    pause_s: float
    loudness_db: float
    tilt_db: float
    breath_db: float
    jitter: float


def prosody(voice: Voice, delivery: NDArray[np.float64]) -> Prosody:
    """The settings that speak a delivery in a voice; each is a monotonic function of its dimension."""
    rate, pitch, spread, loudness, pauses, tilt, breath, jitter = (float(d) for d in delivery)
    return Prosody(
        rate_wpm=round(voice.rate_wpm / voice.formant_scale * np.exp(0.10 * rate)),
        pitch_dial=int(np.clip(round(50 + (voice.pitch + 1.5 * pitch) * SEMITONE), 0, 100)),
        range_dial=int(np.clip(round(voice.range_dial * np.exp(0.30 * spread)), 0, 100)),
        word_gap=max(0, round(0.8 * pauses)),
        pause_s=round(float(0.08 * np.exp(0.6 * pauses)), 3),
        loudness_db=-27.0 + 2.0 * loudness,
        tilt_db=voice.tilt_db + 1.2 * tilt,
        breath_db=min(voice.breath_db + 5.0 * breath, -14.0),
        jitter=float(0.004 * np.exp(0.6 * jitter)),
    )
