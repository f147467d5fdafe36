"""Waveforms as an encoder's front end wants them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig


def normalize_waveforms(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip's valid samples; zero behind them.

    The same as `Wav2Vec2FeatureExtractor` with an attention mask.

    Args:
        waveforms: [B, N].
        lengths: [B] valid samples.

    Returns:
        [B, N].
    """
    mask = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths.unsqueeze(1)
    count = lengths.unsqueeze(1)
    mean = (waveforms * mask).sum(1, keepdim=True) / count
    centred = (waveforms - mean) * mask
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + 1e-7)


def receptive_field(config: PretrainedConfig) -> int:
    """Samples that the front end needs for one frame (400 in WavLM, wav2vec 2.0 and HuBERT)."""
    field = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        field = (field - 1) * stride + kernel
    return field
