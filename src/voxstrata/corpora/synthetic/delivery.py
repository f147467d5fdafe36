"""How an emotion is spoken: eight dimensions of prosody, drawn around class means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxstrata.labels import EMOTIONS

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
    drawn = strength * np.asarray(MEANS[emotion]) + noise + np.asarray(habits)
    delivery: NDArray[np.float64] = np.clip(drawn, -LIMIT, LIMIT)
    return delivery


def nearest(emotion: str) -> list[str]:
    """The other emotions, those that sound most alike first."""
    here = np.asarray(MEANS[emotion])
    others = [e for e in EMOTIONS if e != emotion]
    return sorted(others, key=lambda e: float(np.sum((np.asarray(MEANS[e]) - here) ** 2)))
