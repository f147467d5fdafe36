"""A start for small convolutional front ends: mel-spaced quadrature filters instead of noise."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from voxstrata.audio import SAMPLE_RATE

#: Phases of each band, in quarter turns: behind a rectifier, the four together give the band's magnitude.
PHASES = 4
#: Above this, bands are raised by 6 dB an octave.
EMPHASIS_HZ = 500


def mel_frequencies(bands: int, low_hz: float, high_hz: float) -> list[float]:
    """Centres of mel-spaced bands, in Hz (HTK's mel scale)."""

    def mel(hz: float) -> float:
        return 2595 * math.log10(1 + hz / 700)

    steps = torch.linspace(mel(low_hz), mel(high_hz), bands).tolist()
    return [700 * (10 ** (step / 2595) - 1) for step in steps]


def quadrature_filters(bands: int, kernel: int, *, low_hz: float = 60, high_hz: float = 7600) -> Tensor:
    """Hann-windowed sinusoids at mel-spaced frequencies in four phases, [4 x bands, 1, kernel].

    Low bands use the whole kernel, so that harmonics of the voice resolve; high bands a shorter window,
    as wide in frequency as the bands lie apart. The norm is 1 up to 500 Hz and rises by 6 dB an octave
    above, as speech falls, so that a layer norm over the bands does not hide the upper ones.
    """
    centres = mel_frequencies(bands + 1, low_hz, high_hz)
    time = torch.arange(kernel) - (kernel - 1) / 2
    filters = []
    for centre, following in pairwise(centres):
        span = min(float(kernel), max(32.0, 2 * SAMPLE_RATE / (following - centre)))
        window = torch.where(time.abs() < span / 2, 0.5 + 0.5 * torch.cos(2 * math.pi * time / span), 0.0)
        for phase in range(PHASES):
            wave = torch.cos(2 * math.pi * centre / SAMPLE_RATE * time + phase * math.pi / 2) * window
            filters.append(wave / wave.norm() * max(1.0, centre / EMPHASIS_HZ))
    return torch.stack(filters).unsqueeze(1)


@torch.no_grad()
def start_from_mel(convolution: nn.Conv1d, *, level_channels: int = 4) -> None:
    """Fills the first convolution of a front end with quadrature filters, in place.

    The layer norm behind it takes the level away from every frame. A few channels keep a zero filter and
    a constant bias: behind the norm they tell how large the others were, so that loudness is not lost.

    Args:
        convolution: [channels, 1, kernel]; with a bias if `level_channels` > 0.
        level_channels: channels that carry the level.

    Raises:
        ValueError: if the channels cannot hold whole bands beside the level channels.
    """
    channels, _, kernel = convolution.weight.shape
    bands, rest = divmod(channels - level_channels, PHASES)
    if rest or bands < 2 or (level_channels and convolution.bias is None):
        raise ValueError(f"{channels} channels do not hold {level_channels} level channels and whole bands")
    convolution.weight.zero_()
    convolution.weight[: bands * PHASES] = quadrature_filters(bands, kernel)
    if convolution.bias is not None:
        convolution.bias.zero_()
        if level_channels:
            convolution.bias[-level_channels:] = torch.logspace(-1.5, 0.5, level_channels)
