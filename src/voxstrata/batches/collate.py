"""Padding clips into a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from voxstrata.batches.batch import Batch
from voxstrata.batches.clips import BatchClip


def collate(clips: Sequence[BatchClip], waveforms: Sequence[NDArray[np.float32]]) -> Batch:
    """A batch, zero behind each clip's end.

    Args:
        clips: B clips; all with an emotion target or none, all with tokens or none.
        waveforms: B arrays [N_i], in the same order.
    """
    tokens, token_lengths = _tokens(clips)
    targets = [clip.emotion_target for clip in clips if clip.emotion_target is not None]
    return Batch(
        references=tuple(clip.reference for clip in clips),
        waveforms=pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True),
        lengths=torch.tensor([len(waveform) for waveform in waveforms]),
        emotion_targets=torch.tensor(targets, dtype=torch.float32) if targets else None,
        tokens=tokens,
        token_lengths=token_lengths,
    )


def _tokens(clips: Sequence[BatchClip]) -> tuple[Tensor | None, Tensor | None]:
    rows = [torch.tensor(clip.tokens) for clip in clips if clip.tokens is not None]
    if not rows:
        return None, None
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
