"""The convolutional front end apart from the rest: its output can be kept where no vector changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.backbone.unequal_lengths import features_by_length
from voxstrata.backbone.waveforms import normalize_waveforms
from voxstrata.errors import CheckpointError

#: How the names of the front end's tensors start.
FRONT_END = "feature_extractor."


def front_features(encoder: SpeechEncoder, waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Output of the convolutions for each clip as if it were alone.

    Args:
        encoder: whose front end.
        waveforms: [B, N] raw samples at 16 kHz.
        lengths: [B] valid samples.

    Returns:
        [B, C, T], zero behind each clip's end.
    """
    counts = encoder._sample_counts(waveforms, lengths)
    waveforms = waveforms[:, : max(counts)]
    if encoder.normalize:
        waveforms = normalize_waveforms(waveforms, lengths)
    waveforms = waveforms.to(next(encoder.model.parameters()).dtype)
    return features_by_length(encoder.model.feature_extractor, waveforms, counts)


@contextmanager
def from_features(encoder: SpeechEncoder, features: Tensor, lengths: Tensor) -> Iterator[None]:
    """Inside, an encoder goes on from given features instead of its waveforms.

    Args:
        encoder: called inside.
        features: [B, C, T] of `front_features`.
        lengths: [B] valid samples.

    Raises:
        CheckpointError: if the features are not those of clips of these lengths.
    """
    frames = int(encoder.frame_lengths(lengths).max())
    expected = (len(lengths), encoder.model.config.conv_dim[-1], frames)
    if features.shape != expected:
        raise CheckpointError(
            f"features {list(features.shape)} are not those of these clips, which have {list(expected)}; "
            "take them from `front` with the same lengths"
        )
    encoder.forward = partial(_run_from, encoder, features)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del encoder.forward


def _run_from(encoder: SpeechEncoder, features: Tensor, waveforms: Tensor, lengths: Tensor) -> States:
    samples = torch.arange(waveforms.shape[1], device=waveforms.device)
    same = len(set(lengths.tolist())) == 1
    mask = None if same else (samples < lengths.unsqueeze(1)).long()
    features = features.to(waveforms.device, next(encoder.model.parameters()).dtype)
    return States(encoder._layers(features, mask), encoder.frame_lengths(lengths))
