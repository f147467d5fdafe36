"""How an emotion is spoken: eight dimensions of prosody, drawn around class means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voxstrata.labels import EMOTIONS

if TYPE_CHECKING:
    from voxstrata.corpora.synthetic.voices import Voice

#: Dimensions of a delivery, each in units of the deviation within a class.
DIMENSIONS = ("rate", "pitch", "range", "loudness", "pauses", "tilt", "breath", "jitter")
#: Class means at prosody strength 1. Pairs lie close together (anger and happiness, fear and surprise,
#: sadness and disgust, neutral and contempt), pairs that the words tell apart.
MEANS: dict[str, tuple[float, ...]] = {
    "anger": (1.7, 1.3, 2.4, 3.2, -1.1, 3.0, -1.3, 0.6),
    "happiness": (1.5, 2.1, 3.0, 2.6, -1.1, 2.1, -0.9, -0.2),
    "fear": (2.4, 2.8, -0.4, -0.2, 0.6, 0.0, 2.4, 2.4),
    "surprise": (1.7, 3.4, 0.6, 0.4, 0.9, 0.4, 1.9, 1.5),
    "sadness": (-2.8, -2.1, -1.9, -2.4, 2.1, -2.1, 1.5, 1.3),
    "disgust": (-2.4, -1.9, -1.3, -1.5, 1.9, -1.5, 0.9, 1.9),
    "neutral": (-0.2, -0.6, -0.9, -0.2, -1.1, -0.2, -1.3, -1.9),
    "contempt": (-0.9, -1.1, -0.2, -0.4, -0.6, 0.4, -1.3, -1.5),
}
#: Deliveries are held within this many units.
LIMIT = 3.5
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


def draw_delivery(
    rng: np.random.Generator, emotion: str, strength: float, habits: tuple[float, ...]
) -> NDArray[np.float64]:
    """Draws a delivery, [8] in the order of `DIMENSIONS`.

    Args:
        rng: consumed the same way whatever the emotion.
        emotion: what the speaker feels.
        strength: in [0, 1]; scales the class means, so at 0 the delivery does not depend on the emotion.
        habits: lasting offsets of the speaker, [8].
    """
    noise = rng.standard_normal(len(DIMENSIONS))
    return np.clip(strength * np.asarray(MEANS[emotion]) + noise + np.asarray(habits), -LIMIT, LIMIT)


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


def nearest(emotion: str) -> list[str]:
    """The other emotions, those that sound most alike first."""
    here = np.asarray(MEANS[emotion])
    others = [e for e in EMOTIONS if e != emotion]
    return sorted(others, key=lambda e: float(np.sum((np.asarray(MEANS[e]) - here) ** 2)))
