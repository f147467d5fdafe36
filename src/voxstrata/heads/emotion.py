"""Heads over the frames of a clip: frames to one answer a clip, classes or numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.config.head import HeadOptions
from voxstrata.heads.whole_batch import WholeBatchNorm


def clip_head(size: int, outputs: int, options: HeadOptions) -> ClipHead:
    """The head that the options tell of.

    Args:
        size: D, features of a frame.
        outputs: C.
        options: form, width and dropout.
    """
    given = {"width": options.width, "dropout": options.dropout}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.form == "b":
        return ConvolutionHead(size, outputs, **chosen)
    if options.form == "c":
        return AttentiveHead(size, outputs, **chosen)
    if options.form == "d":
        return StatisticsHead(size, outputs, **chosen)
    return PooledLinearHead(size, outputs, batch_norm=options.batch_norm, **chosen)


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
        dropout: of the pooled features.
        batch_norm: normalise the pooled features over the batch before the last map; helps small
            encoders whose layers differ in scale; a batch of one clip is normalised as in eval mode. Off
            is the literal head.
    """

    #: Linear and without chance up to the mean over frames, so a clip's mean state is all that it needs.
    pools_first = True

    def __init__(
        self, size: int, classes: int, *, width: int = 256, dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        # Batch norm takes any bias off again; AdamW would move it by rounding noise.
        self.projector = nn.Linear(size, width, bias=not batch_norm)
        self.normalizer = WholeBatchNorm(width) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D], bool [B, T] -> logits [B, C]."""
        pooled = masked_mean(self.projector(frames), mask)
        logits: Tensor = self.classifier(self.dropout(self.normalizer(pooled)))
        return logits


class ConvolutionHead(nn.Module):
    """Three pointwise convolutions with ReLU, mean over valid frames, linear, ReLU, linear (head B).

    The form of vox-profile (Feng et al. 2025, arXiv 2505.14648).

    Args:
        size: D, features of a frame.
        classes: C.
        width: features of each convolution and of the first linear map.
        dropout: behind the first and the second convolution.
    """

    pools_first = False

    def __init__(self, size: int, classes: int, *, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Linear(size, width), *(nn.Linear(width, width) for _ in "23")])
        self.dropout = nn.Dropout(dropout)
        self.projector = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D], bool [B, T] -> logits [B, C]."""
        first, second, third = self.convolutions
        hidden = self.dropout(F.relu(first(frames)))
        hidden = self.dropout(F.relu(second(hidden)))
        pooled = masked_mean(F.relu(third(hidden)), mask)
        logits: Tensor = self.classifier(F.relu(self.projector(pooled)))
        return logits


class AttentiveHead(nn.Module):
    """Attentive statistics over valid frames, linear, LayerNorm, ReLU, linear (head C).

    Okabe et al. 2018 (arXiv 1803.10963), equations 1 to 6, with a scalar score tanh(W h + b) v of each
    frame; in the form of the baseline of the MSP-Podcast challenge (Odyssey 2024).

    Args:
        size: D, features of a frame.
        classes: C.
        width: features after the first linear map.
        dropout: of the pooled statistics and behind the first linear map.
    """

    pools_first = False

    def __init__(self, size: int, classes: int, *, width: int = 1024, dropout: float = 0.5) -> None:
        super().__init__()
        self.scorer = nn.Linear(size, size)
        self.attention = nn.Linear(size, 1, bias=False)
        self.projector = nn.Linear(2 * size, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D], bool [B, T] -> logits [B, C]."""
        pooled = self.dropout(self.statistics(frames, mask))
        logits: Tensor = self.classifier(self.dropout(F.relu(self.norm(self.projector(pooled)))))
        return logits

    def statistics(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean and standard deviation of the valid frames: [B, T, D], bool [B, T] -> [B, 2D]."""
        scores = self.attention(torch.tanh(self.scorer(frames))).float()
        weights = torch.softmax(scores.masked_fill(~mask.unsqueeze(-1), float("-inf")), dim=1)
        # Padding holds arbitrary numbers: weight 0 alone would let an infinite one through.
        wide = frames.float().masked_fill(~mask.unsqueeze(-1), 0)
        mean = (weights * wide).sum(1)
        variance = (weights * wide.square()).sum(1) - mean.square()
        return torch.cat([mean, variance.clamp_min(1e-5).sqrt()], dim=-1).to(frames.dtype)


class StatisticsHead(nn.Module):
    """Mean and standard deviation over valid frames, batch norm, one linear map (head D).

    What a linear probe of frozen layers reads, with the scale of each feature taken from the batch.

    Args:
        size: D, features of a frame.
        classes: C.
        dropout: of the normalised statistics.
    """

    pools_first = False

    def __init__(self, size: int, classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.normalizer = WholeBatchNorm(2 * size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * size, classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D], bool [B, T] -> logits [B, C]."""
        logits: Tensor = self.classifier(self.dropout(self.normalizer(self.statistics(frames, mask))))
        return logits

    def statistics(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Mean and standard deviation of the valid frames: [B, T, D], bool [B, T] -> [B, 2D]."""
        wide = frames.to(torch.promote_types(frames.dtype, torch.float32))
        mean = masked_mean(wide, mask)
        variance = masked_mean((wide - mean.unsqueeze(1)).square(), mask)
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1).to(frames.dtype)


ClipHead = PooledLinearHead | ConvolutionHead | AttentiveHead | StatisticsHead
