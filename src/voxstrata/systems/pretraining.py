"""Pre-training an encoder by masked prediction of clustered targets (HuBERT, arXiv 2106.07447).

Spans of frames behind the convolutional front end are replaced by the encoder's mask embedding; from the
last layer, the clusters of the hidden frames are predicted (cross-entropy on masked frames, and with a
small weight on the others).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.predictions import Prediction
from voxstrata.systems.acoustic_targets import HOP, AcousticTargets
from voxstrata.systems.system import ParameterGroup, System

SPAN = 10


def span_mask(lengths: Tensor, frames: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Spans of 10 frames from random starts; near `share` of each clip is masked.

    Args:
        lengths: [B] valid frames.
        frames: T.
        share: aimed share of masked frames in (0, 1).
        generator: of the random numbers; None for torch's own.

    Returns:
        bool [B, T], false behind each clip's end.
    """
    start_rate = 1 - (1 - share) ** (1 / SPAN)
    starts = torch.rand(len(lengths), frames, generator=generator) < start_rate
    reach = F.max_pool1d(F.pad(starts.float(), (SPAN - 1, 0)).unsqueeze(1), SPAN, 1).squeeze(1) > 0
    return reach & (torch.arange(frames) < lengths.cpu().unsqueeze(1))


@contextmanager
def masked_frames(encoder: SpeechEncoder, mask: Tensor) -> Iterator[None]:
    """Inside, the encoder sees its mask embedding in place of the masked frames (bool [B, T])."""

    def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        embedding = encoder.model.masked_spec_embed.to(hidden.dtype)
        hidden = torch.where(mask.to(hidden.device).unsqueeze(-1), embedding, hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = encoder.model.feature_projection.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


class MaskedPrediction(System):
    """An encoder under masked prediction of cepstral and prosodic clusters.

    Args:
        encoder: trainable, with a mask embedding; frames every 20 ms.
        targets: fitted clusters.
        lr: peak learning rate.
        weight_decay: of everything.
        mask_share: share of masked frames.
        visible_weight: weight of the loss on frames that were not masked.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        targets: AcousticTargets,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        mask_share: float = 0.5,
        visible_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.targets = targets
        self.norm = nn.LayerNorm(encoder.hidden_size)
        self.heads = nn.ModuleDict(
            {stream: nn.Linear(encoder.hidden_size, size) for stream, size in targets.sizes.items()}
        )
        self.lr = lr
        self.weight_decay = weight_decay
        self.mask_share = mask_share
        self.visible_weight = visible_weight

    def loss(self, batch: Batch) -> Tensor:
        lengths = self.encoder.frame_lengths(batch.lengths)
        frames = int(lengths.max())
        generator = None if self.training else torch.Generator().manual_seed(0)
        mask = span_mask(lengths, frames, self.mask_share, generator).to(batch.waveforms.device)
        with masked_frames(self.encoder, mask):
            states = self.encoder(batch.waveforms, batch.lengths)
        hidden = self.norm(states.layers[-1])
        ids = self.targets(batch.waveforms, frames, frame_offset(self.encoder), batch.lengths)
        weights = mask.float() + self.visible_weight * (states.mask() & ~mask).float()
        total = torch.zeros(len(batch), device=hidden.device)
        for stream, head in self.heads.items():
            entropy = F.cross_entropy(head(hidden).float().transpose(1, 2), ids[stream], reduction="none")
            total = total + (entropy * weights).sum(1) / weights.sum(1).clamp_min(1)
        return total.mean() / len(self.heads)

    def predict(self, batch: Batch) -> list[Prediction]:
        """Nothing but the ids: pre-training answers no question about a clip."""
        return [Prediction(id=reference.id) for reference in batch.references]

    def parameter_groups(self) -> list[ParameterGroup]:
        trained = [self.encoder, self.norm, self.heads]
        parameters = tuple(p for module in trained for p in module.parameters())
        return [ParameterGroup("all", parameters, self.lr, self.weight_decay)]


def frame_offset(encoder: SpeechEncoder) -> int:
    """The sample on which the encoder's first frame is centred.

    Raises:
        ValueError: if its frames do not come every 20 ms.
    """
    config = encoder.model.config
    field, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    if stride != HOP:
        raise ValueError(f"the encoder has a frame every {stride} samples; the targets one every {HOP}")
    return field // 2
