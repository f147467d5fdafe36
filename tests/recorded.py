"""Recordings as the batch that a model sees."""

from __future__ import annotations

from pathlib import Path

import torch

from voxstrata.audio import load_audio
from voxstrata.batches.batch import Batch, Reference


def batch(paths: list[Path]) -> Batch:
    waves = [torch.from_numpy(load_audio(path)) for path in paths]
    return Batch(
        tuple(Reference(str(path)) for path in paths),
        torch.nn.utils.rnn.pad_sequence(waves, batch_first=True),
        torch.tensor([len(wave) for wave in waves]),
    )
