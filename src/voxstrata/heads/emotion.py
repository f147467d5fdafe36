"""Emotion heads: frames to class logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class EmotionHeadOptions:
    """Form of layer sum and head A.

    Args:
        width: features after the head's first linear map.
        batch_norm: see `PooledLinearHead`.
        normalize_layers: see `LayerSum`.
    """

    width: int = 256
    batch_norm: bool = False
    normalize_layers: bool = False


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid frames: [B, T, D], bool [B, T] -> [B, D]; summed at least in float32."""
    kept = mask.unsqueeze(-1)
    wide = frames.to(torch.promote_types(frames.dtype, torch.float32)).masked_fill(~kept, 0)
    return (wide.sum(1) / kept.sum(1).clamp_min(1)).to(frames.dtype)


class PooledLinearHead(nn.Module):
    """Linear to `width`, mean over valid frames, linear to classes (head A; EMO-SUPERB's form).

    Args:
        size: D, features of a frame.
        classes: C.
        width: features after the first linear map.
        batch_norm: normalise the pooled features over the batch before the last map; helps small
            encoders whose layers differ in scale; a batch of one clip is normalised as in eval mode. Off
            is the literal head.
    """

    def __init__(self, size: int, classes: int, *, width: int = 256, batch_norm: bool = False) -> None:
        super().__init__()
        self.projector = nn.Linear(size, width)
        self.normalizer = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.classifier = nn.Linear(width, classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D], bool [B, T] -> logits [B, C]."""
        pooled = masked_mean(self.projector(frames), mask)
        return self.classifier(self._normalized(pooled))

    def _normalized(self, pooled: Tensor) -> Tensor:
        if isinstance(self.normalizer, nn.BatchNorm1d) and len(pooled) == 1:
            # One clip has no variance: torch refuses it in train mode, and the last batch may hold one.
            norm = self.normalizer
            return F.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        return self.normalizer(pooled)
