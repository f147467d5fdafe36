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
        clips: B clips; all with an emotion target or none, and so with tokens and with ratings.
        waveforms: B arrays [N_i], in the same order.
    """
    return _batch(clips, padded(waveforms), [len(waveform) for waveform in waveforms])


def no_clips() -> Batch:
    """A batch of none: what falls to a process where there are fewer clips than processes."""
    return Batch(references=(), waveforms=torch.zeros(0, 0), lengths=torch.zeros(0, dtype=torch.int64))


def padded(waveforms: Sequence[NDArray[np.float32]]) -> Tensor:
    """B arrays [N_i] as one tensor [B, N], zero behind each end."""
    return pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)


def collate_without_audio(clips: Sequence[BatchClip], sample_counts: Sequence[int]) -> Batch:
    """The same batch with waveforms [B, 0].

    Args:
        clips: B clips, as in `collate`.
        sample_counts: of each clip.
    """
    return _batch(clips, torch.zeros(len(clips), 0), sample_counts)


def _batch(clips: Sequence[BatchClip], waveforms: Tensor, sample_counts: Sequence[int]) -> Batch:
    tokens, token_lengths = _tokens(clips)
    emotions = [clip.emotion_target for clip in clips if clip.emotion_target is not None]
    classes = [clip.class_target for clip in clips if clip.class_target is not None]
    ratings = [clip.ratings for clip in clips if clip.ratings is not None]
    return Batch(
        references=tuple(clip.reference for clip in clips),
        waveforms=waveforms,
        lengths=torch.tensor(sample_counts),
        emotion_targets=torch.tensor(emotions, dtype=torch.float32) if emotions else None,
        class_targets=torch.tensor(classes, dtype=torch.float32) if classes else None,
        ratings=torch.tensor(ratings, dtype=torch.float32) if ratings else None,
        tokens=tokens,
        token_lengths=token_lengths,
    )


def _tokens(clips: Sequence[BatchClip]) -> tuple[Tensor | None, Tensor | None]:
    rows = [torch.tensor(clip.tokens, dtype=torch.long) for clip in clips if clip.tokens is not None]
    if not rows:
        return None, None
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
