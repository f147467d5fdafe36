"""From a voice and a delivery to what espeak-ng and the signal processing are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxstrata.corpora.synthetic.voices import Voice

#: Steps of espeak's pitch dial to a semitone (0 to 100 spans about 14 semitones).
SEMITONE = 100 / 14


@dataclass(frozen=True)
class Steps:
    """What a unit of each dimension does: a middle, and a step that is added or, of logarithms, multiplies.

    Args:
        rate: the voice's own rate is spoken this many times as fast.
        rate_step: of the logarithm of the rate.
        pitch_step: semitones.
        range_step: of the logarithm of espeak's range.
        word_gap: espeak's gap between words, units of 10 ms.
        word_gap_step: the same.
        pause_step: of the logarithm of the pause.
        loudness_db: re full scale.
        loudness_step_db: dB.
        tilt_db: dB per octave, added to the voice's own.
        tilt_step_db: dB per octave.
        breath_step_db: dB.
        most_breath_db: breath noise re speech is never louder than this.
        jitter_step: of the logarithm of the jitter.
    """

    rate: float = 1.0
    rate_step: float = 0.10
    pitch_step: float = 1.5
    range_step: float = 0.30
    word_gap: float = 0.0
    word_gap_step: float = 0.8
    pause_step: float = 0.6
    loudness_db: float = -27.0
    loudness_step_db: float = 2.0
    tilt_db: float = 0.0
    tilt_step_db: float = 1.2
    breath_step_db: float = 5.0
    most_breath_db: float = -14.0
    jitter_step: float = 0.6


#: Clarity -> its steps. Clear speech is slower, brighter and with gaps between its words. What harms words
#: (rate, tilt, breath, jitter) moves less in it, what does not (range, loudness) moves more.
STEPS = {
    "natural": Steps(),
    "clear": Steps(
        rate=0.85,
        rate_step=0.05,
        range_step=0.35,
        word_gap=3.0,
        word_gap_step=0.6,
        loudness_step_db=2.6,
        tilt_db=1.5,
        tilt_step_db=0.6,
        breath_step_db=1.5,
        jitter_step=0.25,
    ),
}


@dataclass(frozen=True)
class Prosody:
    """What espeak-ng and the signal processing are given for one clip.

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


def prosody(voice: Voice, delivery: NDArray[np.float64], steps: Steps = STEPS["natural"]) -> Prosody:
    """The settings that speak a delivery in a voice; each is a monotonic function of its dimension."""
    rate, pitch, spread, loudness, pauses, tilt, breath, jitter = (float(d) for d in delivery)
    own_rate_wpm = steps.rate * voice.rate_wpm / voice.formant_scale
    pitch_dial = 50 + (voice.pitch + steps.pitch_step * pitch) * SEMITONE
    return Prosody(
        rate_wpm=round(own_rate_wpm * np.exp(steps.rate_step * rate)),
        pitch_dial=int(np.clip(round(pitch_dial), 0, 100)),
        range_dial=int(np.clip(round(voice.range_dial * np.exp(steps.range_step * spread)), 0, 100)),
        word_gap=max(0, round(steps.word_gap + steps.word_gap_step * pauses)),
        pause_s=round(float(0.08 * np.exp(steps.pause_step * pauses)), 3),
        loudness_db=steps.loudness_db + steps.loudness_step_db * loudness,
        tilt_db=voice.tilt_db + steps.tilt_db + steps.tilt_step_db * tilt,
        breath_db=min(voice.breath_db + steps.breath_step_db * breath, steps.most_breath_db),
        jitter=float(0.004 * np.exp(steps.jitter_step * jitter)),
    )
