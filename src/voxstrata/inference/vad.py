"""Speech found by silero-vad (the extra `vad`), whose weights come in its package: no network is needed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE
from voxstrata.errors import AudioError
from voxstrata.inference.speech import stretches
from voxstrata.inference.words import Span

#: Samples at 16 kHz that the model takes at once.
STEP = 512
#: Speech begins at this probability and ends below the second one, as the package has it.
BEGINS, ENDS = 0.5, 0.35


def is_installed() -> bool:
    """Whether silero-vad can be imported."""
    return find_spec("silero_vad") is not None


def require_installed() -> None:
    """Refuses to go on without silero-vad.

    Raises:
        AudioError: if it is not installed.
    """
    if not is_installed():
        raise AudioError(
            "speech by silero needs the package silero-vad; pip install 'voxstrata[vad]', or take energy"
        )


class SileroVad:
    """The model of silero-vad on the CPU.

    Raises:
        AudioError: if the package is not installed.
    """

    def __init__(self) -> None:
        require_installed()
        # The package sets torch's threads to one, for all that runs beside it.
        threads = torch.get_num_threads()
        try:
            self.model: Any = import_module("silero_vad").load_silero_vad()
        finally:
            torch.set_num_threads(threads)

    @torch.no_grad()
    def speech(self, blocks: Iterable[NDArray[np.float32]]) -> list[Span]:
        """Stretches of speech, in seconds.

        Args:
            blocks: mono samples [n] at 16 kHz, of a recording from its beginning.
        """
        self.model.reset_states()
        shares: list[float] = []
        rest = np.zeros(0, np.float32)
        for block in blocks:
            rest = self._listen(np.concatenate([rest, block]), shares)
        if len(rest):
            self._listen(np.pad(rest, (0, STEP - len(rest))), shares)
        return stretches(_speech(shares), STEP / SAMPLE_RATE)

    def _listen(self, samples: NDArray[np.float32], shares: list[float]) -> NDArray[np.float32]:
        """Adds the probability of each whole step, and returns the samples that are left."""
        whole = len(samples) // STEP * STEP
        for step in torch.from_numpy(samples[:whole].reshape(-1, STEP).copy()):
            shares.append(float(self.model(step, SAMPLE_RATE)))
        return samples[whole:]


def _speech(shares: list[float]) -> NDArray[np.bool_]:
    """Which steps are speech, by two thresholds."""
    found = np.zeros(len(shares), bool)
    speaking = False
    for k, share in enumerate(shares):
        speaking = share >= (ENDS if speaking else BEGINS)
        found[k] = speaking
    return found
