"""Pre-training an encoder by masked prediction of clustered targets (HuBERT, arXiv 2106.07447).

Spans of frames behind the convolutional front end are replaced by the encoder's mask embedding; the
clusters of the hidden frames are predicted (cross-entropy on masked frames, and with a
small weight on the others). Each kind of target is read from a weighted sum of all layers, since merging and
fusion read the encoder so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch
from voxstrata.batches.phonemes import UNKNOWN, frame_phonemes
from voxstrata.heads.emotion import masked_mean
from voxstrata.methods.pretraining.acoustic_targets import HOP, STATISTICS, AcousticTargets
from voxstrata.methods.pretraining.recipe import PretrainingOptions
from voxstrata.predictions import Prediction
from voxstrata.system import ParameterGroup, System

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


class Readouts(nn.Module):
    """For each stream a softmax-weighted sum of the layers, LayerNorm, one linear map.

    Args:
        encoder: whose layers.
        sizes: stream -> size of its output.
    """

    def __init__(self, encoder: SpeechEncoder, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(len(sizes), encoder.num_layers))
        self.norms = nn.ModuleDict({stream: nn.LayerNorm(encoder.hidden_size) for stream in sizes})
        self.maps = nn.ModuleDict(
            {stream: nn.Linear(encoder.hidden_size, size) for stream, size in sizes.items()}
        )

    def forward(self, layers: Sequence[Tensor]) -> dict[str, Tensor]:
        """L tensors [B, T, D] -> stream -> float32 [B, T, size]; the layers are normalised once for all."""
        size = layers[0].shape[-1:]
        stacked = torch.stack([F.layer_norm(layer, size) for layer in layers])
        sums = torch.tensordot(self.layer_weights.softmax(-1).to(stacked), stacked, dims=1)
        return {
            stream: read(self.norms[stream](summed)).float()
            for (stream, read), summed in zip(self.maps.items(), sums, strict=True)
        }


class MaskedPrediction(System):
    """An encoder under masked prediction of cepstral and prosodic clusters.

    Beside the clusters, the mean over frames predicts each clip's acoustic statistics, and where the corpus
    tells them, phonemes are predicted from every frame. Targets come from the waveforms before noise and
    reverberation (WavLM, arXiv 2110.13900, section 3.2).

    Args:
        encoder: trainable, with a mask embedding; frames every 20 ms.
        targets: fitted clusters.
        phonemes: classes of phonemes; 0 without phonemes.
        options: rates and weights.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        targets: AcousticTargets,
        *,
        phonemes: int = 0,
        options: PretrainingOptions | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.targets = targets
        self.options = options or PretrainingOptions()
        sizes = {**targets.sizes, "statistics": STATISTICS} | ({"phoneme": phonemes} if phonemes else {})
        self.readouts = Readouts(encoder, sizes)

    def loss(self, batch: Batch) -> Tensor:
        frames = self.encoder.frame_lengths(batch.lengths)
        generator = None if self.training else torch.Generator().manual_seed(0)
        mask = span_mask(frames, int(frames.max()), self.options.mask_share, generator)
        mask = mask.to(batch.waveforms.device)
        with masked_frames(self.encoder, mask):
            states = self.encoder(batch.waveforms, batch.lengths)
        valid = states.mask()
        offset = frame_offset(self.encoder)
        clean = batch.waveforms if batch.clean is None else batch.clean
        targets = self.targets(clean, offset, batch.lengths, frames)
        weights = mask.float() + self.options.visible_weight * (valid & ~mask).float()
        read = self.readouts(states.layers)
        losses = [_frame_loss(read[stream], ids, weights) for stream, ids in targets.ids.items()]
        summed = masked_mean(read["statistics"], valid)
        losses.append(F.mse_loss(summed, targets.statistics, reduction="none").mean(1))
        if "phoneme" in read and batch.phonemes is not None:
            assert batch.phoneme_starts is not None
            times = (torch.arange(mask.shape[1]) * HOP + offset) / SAMPLE_RATE
            spoken = frame_phonemes(batch.phoneme_starts, batch.phonemes, times)
            known = (valid & (spoken != UNKNOWN)).float()
            losses.append(self.options.phoneme_weight * _frame_loss(read["phoneme"], spoken, known))
        return torch.stack(losses).mean()

    def predict(self, batch: Batch) -> list[Prediction]:
        """Nothing but the ids: pre-training answers no question about a clip."""
        return [Prediction(id=reference.id) for reference in batch.references]

    def parameter_groups(self) -> list[ParameterGroup]:
        parameters = (*self.encoder.parameters(), *self.readouts.parameters())
        others = tuple(p for p in parameters if p is not self.readouts.layer_weights)
        return [
            ParameterGroup("all", others, self.options.lr, self.options.weight_decay),
            ParameterGroup("layer_weights", (self.readouts.layer_weights,), 10 * self.options.lr),
        ]

    def summary(self) -> dict[str, float]:
        """From which layers each stream is read."""
        rows = self.readouts.layer_weights.detach().softmax(-1).tolist()
        return {
            f"layer_weight/{stream}/{layer}": weight
            for stream, row in zip(self.readouts.maps, rows, strict=True)
            for layer, weight in enumerate(row, start=1)
        }


def _frame_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy over the frames of each clip: [B, T, C], [B, T], [B, T] -> [B]."""
    entropy = F.cross_entropy(logits.transpose(1, 2), classes, reduction="none", ignore_index=UNKNOWN)
    return (entropy * weights).sum(1) / weights.sum(1).clamp_min(1)


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
