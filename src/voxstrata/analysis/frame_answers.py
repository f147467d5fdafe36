"""What is known of each frame of an encoder: the phoneme spoken, pitch, energy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.batches.phonemes import UNKNOWN, frame_phonemes
from voxstrata.errors import CheckpointError
from voxstrata.methods.pretraining.acoustic_targets import HOP, AcousticTargets
from voxstrata.methods.pretraining.system import frame_offset

PHONEMES, PITCH, ENERGY = "phonemes", "pitch", "energy"
FRAME_TARGETS = (PHONEMES, PITCH, ENERGY)


class FrameAnswers:
    """Answers for the frames of an encoder's batches.

    Pitch is log2 of the fundamental frequency in Hz, on voiced frames only. Energy is the log of a frame's
    mean square, against the level of its own clip: an encoder that normalises waveforms knows no other.

    Args:
        encoder: frames every 20 ms.
        targets: of `FRAME_TARGETS`.

    Raises:
        CheckpointError: if the encoder's frames come at another rate.
    """

    def __init__(self, encoder: SpeechEncoder, targets: tuple[str, ...]) -> None:
        try:
            self.offset = frame_offset(encoder)
        except ValueError as fault:
            raise CheckpointError(f"{', '.join(targets)}: {fault}; probe other targets") from None
        self.targets = targets
        self._encoder = encoder
        self._features = AcousticTargets().to(next(encoder.parameters()).device)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, NDArray[np.float64]]:
        """Target -> [B, T], NaN where not known; behind a clip's end the numbers mean nothing.

        Phonemes are numbers of classes in the order of the batch's inventory.
        """
        count = int(self._encoder.frame_lengths(batch.lengths).max())
        answers = {}
        if PHONEMES in self.targets:
            assert batch.phoneme_starts is not None and batch.phonemes is not None
            times_s = (torch.arange(count) * HOP + self.offset) / SAMPLE_RATE
            spoken = frame_phonemes(batch.phoneme_starts, batch.phonemes, times_s)
            answers[PHONEMES] = spoken.double().masked_fill(spoken == UNKNOWN, torch.nan)
        if {PITCH, ENERGY} & set(self.targets):
            features = self._features.features(batch.waveforms, count, self.offset, batch.lengths)
            pitch, energy = features["prosodic"][..., 2].double(), features["prosodic"][..., 3].double()
            answers |= {PITCH: pitch.masked_fill(pitch == 0, torch.nan), ENERGY: energy}
        return {name: answers[name].cpu().numpy() for name in self.targets}
