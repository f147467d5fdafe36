"""Waveforms as an encoder's front end wants them."""

from __future__ import annotations

import torch
from torch import Tensor


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
