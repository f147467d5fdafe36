"""The convolutional front end on a few clips at a time, before the transformer runs on the whole batch.

With group norm it runs clip by clip: padding would enter its statistics. A large one on a CPU does so too,
since its first layers' outputs are the largest tensors of all: in pieces that the C library keeps on its heap
it takes less time and much less memory, and less padding is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Output of the first convolution above which a batch is divided on a CPU; glibc maps what is larger anew at
#: each use.
_PIECE_BYTES = 2**25


def accept_features(front_end: nn.Module) -> None:
    """Lets a model be called with features [B, C, T] in place of waveforms [B, N], in place.

    The front end passes them on as they are; on waveforms it does what it did.

    Args:
        front_end: the `feature_extractor` of a transformers speech encoder.
    """
    # A partial of a module-level function is copied and pickled with the module it is bound to.
    front_end.forward = partial(_features, front_end)


def clips_at_a_time(config: PretrainedConfig, waveforms: Tensor) -> int:
    """How many clips of a batch [B, N] a front end without group norm runs at once: B, fewer on a CPU."""
    clips, samples = waveforms.shape
    if waveforms.device.type != "cpu":
        return clips
    frames = (samples - config.conv_kernel[0]) // config.conv_stride[0] + 1
    largest: int = frames * config.conv_dim[0] * waveforms.element_size()
    return min(clips, max(1, _PIECE_BYTES // largest))


def features_in_pieces(front_end: nn.Module, waveforms: Tensor, counts: Sequence[int], clips: int) -> Tensor:
    """Features of a few clips at a time, up to the end of the longest of them.

    Args:
        front_end: the `feature_extractor` of a transformers speech encoder.
        waveforms: [B, N].
        counts: valid samples of each clip.
        clips: how many at a time; with 1 each is as if it were alone.

    Returns:
        [B, C, T], zero behind the end of each piece.
    """
    pieces = [
        # Not by calling the module: its hooks are for a batch, and see it when the features pass through.
        front_end.forward(waveforms[start : start + clips, : max(counts[start : start + clips])])
        for start in range(0, len(counts), clips)
    ]
    frames = max(piece.shape[-1] for piece in pieces)
    return torch.cat([F.pad(piece, (0, frames - piece.shape[-1])) for piece in pieces])


def _features(front_end: nn.Module, values: Tensor) -> Tensor:
    features: Tensor = values if values.ndim == 3 else type(front_end).forward(front_end, values)
    return features
