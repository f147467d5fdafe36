"""What lies before the first tensor that a vector changes: its output is the same under all coefficients.

That is the convolutional front end, since fine-tuning mostly leaves it frozen, or with it the lower layers.
Its output is called the *front* of a clip: features [B, C, T], or the lower layers' states [B, l, D, T].
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.backbone.replaced import forward_replaced
from voxstrata.errors import CheckpointError


def is_before(encoder: SpeechEncoder, name: str, layers: int) -> bool:
    """Whether the output of a layer depends on a tensor.

    Args:
        encoder: whose tensor.
        name: in the model's own names.
        layers: the layer, from 1; 0 for the convolutional front end.
    """
    return encoder.family.is_before(encoder.model.config, name, layers)


def fixed_layers(encoder: SpeechEncoder, changed: Collection[str]) -> int | None:
    """Lower layers whose outputs stay the same when tensors change; None where the front end's does not.

    Args:
        encoder: whose layers.
        changed: names of the tensors.
    """
    fixed = None
    for layers in range(encoder.num_layers):
        if any(is_before(encoder, name, layers) for name in changed):
            break
        fixed = layers
    return fixed


def front_features(encoder: SpeechEncoder, waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Output of the convolutions for each clip as if it were alone.

    Args:
        encoder: whose front end.
        waveforms: [B, N] raw samples at 16 kHz.
        lengths: [B] valid samples.

    Returns:
        [B, C, T], zero behind each clip's end.
    """
    return encoder.features(waveforms, lengths, alone=True)


def front_states(encoder: SpeechEncoder, waveforms: Tensor, lengths: Tensor, layers: int) -> Tensor:
    """States of the lower layers for each clip as if it were alone.

    Args:
        encoder: whose layers.
        waveforms: [B, N] raw samples at 16 kHz.
        lengths: [B] valid samples.
        layers: l, how many.

    Returns:
        [B, l, D, T], zero behind each clip's end.
    """
    counts: list[int] = lengths.tolist()
    clips = [
        torch.stack(encoder(clip[None, :count], lengths[row : row + 1]).layers[:layers], dim=1)[0].mT
        for row, (clip, count) in enumerate(zip(waveforms, counts, strict=True))
    ]
    frames = max(clip.shape[-1] for clip in clips)
    return torch.stack([F.pad(clip, (0, frames - clip.shape[-1])) for clip in clips])


@contextmanager
def from_front(encoder: SpeechEncoder, front: Tensor, lengths: Tensor) -> Iterator[None]:
    """Inside, an encoder goes on from a front instead of its waveforms.

    Args:
        encoder: called inside.
        front: [B, C, T] of `front_features`, or [B, l, D, T] of `front_states`.
        lengths: [B] valid samples.

    Raises:
        CheckpointError: if the front is not that of clips of these lengths.
    """
    expected: tuple[int, ...] = (len(lengths), encoder.front_channels, encoder.frames_of(lengths))
    if front.ndim == 4:
        expected = (len(lengths), front.shape[1], encoder.hidden_size, expected[-1])
    if front.shape != expected:
        raise CheckpointError(
            f"features {list(front.shape)} are not those of these clips, which have {list(expected)}; "
            "take them from `front` with the same lengths"
        )
    with forward_replaced(encoder, partial(_run_from, encoder, front)):
        yield


def _run_from(encoder: SpeechEncoder, front: Tensor, waveforms: Tensor, lengths: Tensor) -> States:
    front = front.to(waveforms.device, next(encoder.model.parameters()).dtype)
    return encoder.from_features(front, lengths, front.mT if front.ndim == 4 else None)
