"""Where speech begins and ends in a clip, by level alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: A frame this far below the clip's loudest counts as silent, in dB.
BELOW_DB = 35.0
#: What is kept before the first and after the last frame that is not silent, in seconds.
MARGIN_S = 0.1
#: Length of a frame, in seconds.
FRAME_S = 0.025


def without_silence(samples: NDArray[np.float32], sample_rate: int) -> tuple[float, float]:
    """The stretch of a clip without the silence at either end; pauses within are kept.

    A frame is silent if its mean square lies `BELOW_DB` under that of the loudest. A clip of zeros is all
    silence and is kept whole.

    >>> tone = np.r_[np.zeros(8000), np.sin(np.arange(8000)), np.zeros(16000)].astype(np.float32)
    >>> without_silence(tone, 16_000)
    (0.4, 1.1)

    Args:
        samples: [N], mono.
        sample_rate: in Hz.

    Returns:
        Start and end in seconds, within [0, N / sample_rate].
    """
    length = max(1, round(FRAME_S * sample_rate))
    starts = np.arange(0, len(samples), length)
    squares = np.add.reduceat(samples.astype(np.float64) ** 2, starts)
    # The last frame may be shorter.
    power = squares / np.diff(np.append(starts, len(samples)))
    heard = np.flatnonzero((power > 0) & (power >= power.max() * 10 ** (-BELOW_DB / 10)))
    duration_s = len(samples) / sample_rate
    if not len(heard):
        return 0.0, duration_s
    start_s = starts[heard[0]] / sample_rate - MARGIN_S
    end_s = (starts[heard[-1]] + length) / sample_rate + MARGIN_S
    return max(0.0, round(float(start_s), 6)), min(duration_s, round(float(end_s), 6))
