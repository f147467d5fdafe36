"""The clips that an export is checked with: the run's own dev clips, or made ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxstrata.audio import SAMPLE_RATE, load_audio
from voxstrata.errors import VoxstrataError
from voxstrata.methods.cuts import cuts_of
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder

#: Clips that are compared, and of how many they are chosen.
_CLIPS, _LOOKED_AT = 4, 64
#: Of longer clips the begin is taken: states of all layers are held.
_LONGEST_S = 10.0
#: Lengths of made clips, in seconds.
_MADE_S = (0.6, 1.7, 2.9, 4.3)


@dataclass(frozen=True)
class Clips:
    """Clips of unequal length.

    Args:
        waveforms: samples at 16 kHz of each clip.
        about: what they are, in words.
    """

    waveforms: tuple[Tensor, ...]
    about: str

    def padded(self) -> tuple[Tensor, Tensor]:
        """Waveforms [B, N] with zeros behind each clip's end, and valid samples [B]."""
        lengths = torch.tensor([len(wave) for wave in self.waveforms])
        return torch.nn.utils.rnn.pad_sequence(list(self.waveforms), batch_first=True), lengths


def clips_for(run: Path, *, shortest: int, longest: int) -> Clips:
    """Clips of the run's dev split, where its recipe and recordings are there; else made ones.

    Args:
        run: a run's folder, or any other.
        shortest: samples that a clip needs at least.
        longest: samples that a clip may have.
    """
    most = min(longest, int(_LONGEST_S * SAMPLE_RATE))
    try:
        waves = _own(run, shortest, most)
    except (VoxstrataError, OSError):
        waves = []
    if waves:
        return Clips(tuple(waves), f"{len(waves)} clips of the run's dev split")
    lengths = [min(most, max(shortest, int(seconds * SAMPLE_RATE))) for seconds in _MADE_S]
    made = tuple(torch.from_numpy(_made(number, count)) for number, count in enumerate(lengths))
    return Clips(made, f"{len(made)} made clips of voice-like sound")


def _own(run: Path, shortest: int, most: int) -> list[Tensor]:
    """Dev clips from the shortest to the longest."""
    path = RunFolder(run).recipe
    if not path.is_file():
        return []
    cuts = sorted(islice(cuts_of(read_recipe(path), "dev"), _LOOKED_AT), key=lambda cut: cut.duration)
    places = sorted({round(step * (len(cuts) - 1) / (_CLIPS - 1)) for step in range(_CLIPS)}) if cuts else []
    found = []
    for place in places:
        cut = cuts[place]
        path = Path(cut.recording.sources[0].source)
        length_s = min(cut.duration, most / SAMPLE_RATE)
        samples = torch.from_numpy(load_audio(path, offset_s=cut.start, duration_s=length_s))[:most]
        if len(samples) >= shortest:
            found.append(samples)
    return found


def _made(number: int, samples: int) -> NDArray[np.float32]:
    """Harmonics of a moving pitch, louder and softer, in noise."""
    rng = np.random.default_rng(number)
    time = np.arange(samples) / SAMPLE_RATE
    pitch_hz = 90 + 60 * number + 40 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 9)) * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * time))
    return (0.1 * voice + 0.02 * rng.normal(size=samples)).astype(np.float32)
