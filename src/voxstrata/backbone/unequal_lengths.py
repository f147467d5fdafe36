"""The convolutional front end clip by clip, before the transformer runs on the whole batch.

With group norm it must: padding would enter its statistics. On the CPU it is also faster and needs a
fraction of the memory, since the first layers' outputs are the largest of all and padding is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def accept_features(front_end: nn.Module) -> None:
    """Lets a model be called with features [B, C, T] in place of waveforms [B, N], in place.

    The front end passes them on as they are; on waveforms it does what it did.

    Args:
        front_end: the `feature_extractor` of a transformers speech encoder.
    """
    # A partial of a module-level function is copied and pickled with the module it is bound to.
    front_end.forward = partial(_features, front_end)


def features_by_length(front_end: nn.Module, waveforms: Tensor, counts: Sequence[int]) -> Tensor:
    """Features of each clip alone, up to its own length.

    Args:
        front_end: the `feature_extractor` of a transformers speech encoder.
        waveforms: [B, N].
        counts: valid samples of each clip.

    Returns:
        [B, C, T], zero behind each clip's end.
    """
    # Not by calling the module: its hooks are for a batch, and see it when the features pass through.
    clips = [front_end.forward(clip[None, :count])[0] for clip, count in zip(waveforms, counts, strict=True)]
    frames = max(clip.shape[-1] for clip in clips)
    return torch.stack([F.pad(clip, (0, frames - clip.shape[-1])) for clip in clips])


def _features(front_end: nn.Module, values: Tensor) -> Tensor:
    features: Tensor = values if values.ndim == 3 else type(front_end).forward(front_end, values)
    return features
