"""What lies before the first tensor that a vector changes: its output is the same under all coefficients.

That is the convolutional front end, since fine-tuning mostly leaves it frozen, or with it the lower layers.
Its output is called the *front* of a clip: features [B, C, T], or the lower layers' states [B, l, D, T].
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.backbone.fingerprint import fingerprint, settings
from voxstrata.backbone.replaced import forward_replaced
from voxstrata.batches.batch import Batch
from voxstrata.batches.cached import KeptStates
from voxstrata.errors import CheckpointError

if TYPE_CHECKING:
    from voxstrata.methods.adaltm.merged import MergedBackbone


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


def front_of(encoder: SpeechEncoder, waveforms: Tensor, lengths: Tensor, layers: int) -> Tensor:
    """The front of each clip as if it were alone: no bit depends on the others.

    Args:
        encoder: whose front end and lower layers.
        waveforms: [B, N] raw samples at 16 kHz.
        lengths: [B] valid samples.
        layers: l, how many layers; 0: the convolutions alone.

    Returns:
        [B, C, T], or [B, l, D, T] with lower layers; zero behind each clip's end.
    """
    fronts = []
    # Cut to its own length: where waveforms are normalised, sums over padding round otherwise.
    for clip, count in ((row[None, :n], n[None]) for row, n in zip(waveforms, lengths, strict=True)):
        if layers:
            fronts.append(torch.stack(encoder(clip, count).layers[:layers], dim=1)[0].mT)
        else:
            fronts.append(encoder.features(clip, count, alone=True)[0])
    longest = max(front.shape[-1] for front in fronts)
    return torch.stack([F.pad(front, (0, longest - front.shape[-1])) for front in fronts])


@contextmanager
def from_front(encoder: SpeechEncoder, front: Tensor, lengths: Tensor) -> Iterator[None]:
    """Inside, an encoder goes on from a front instead of its waveforms.

    Args:
        encoder: called inside.
        front: [B, C, T] or [B, l, D, T], of `front_of`.
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


@dataclass(frozen=True)
class Front(KeptStates):
    """What lies before the first tensor that a vector changes, of each clip as if it were alone.

    Args:
        merged: whose front.
        layers: l, lower layers whose states are kept, [T, l, D]; 0 for the convolutional front end's output,
            [T, C].

    Raises:
        CheckpointError: if a vector changes it.
    """

    merged: MergedBackbone
    layers: int = 0

    def __post_init__(self) -> None:
        self.merged.require_fixed_front(self.layers)

    @classmethod
    def of(cls, merged: MergedBackbone) -> Front:
        """As much as no vector changes."""
        return cls(merged, merged.fixed_layers or 0)

    @property
    def name(self) -> str:
        return f"the encoder up to layer {self.layers}" if self.layers else "the front end"

    @property
    def row(self) -> tuple[int, ...]:
        return (self.layers, self.merged.hidden_size) if self.layers else (self.merged.base.front_channels,)

    def frames(self, samples: Tensor) -> Tensor:
        base = self.merged.base
        if base.window == "clip":
            return base.frame_lengths(samples)
        return torch.full_like(samples, base.frames_of(samples))

    def computed(self, batch: Batch) -> list[Tensor]:
        front = self.merged.front(batch.waveforms, batch.lengths, self.layers).float().movedim(-1, 1)
        return [clip[:n] for clip, n in zip(front, self.frames(batch.lengths), strict=True)]

    def added(self, batch: Batch, clips: Sequence[Tensor]) -> Batch:
        return replace(batch, front=pad_sequence(list(clips), batch_first=True).movedim(1, -1))

    def identity(self) -> str:
        base = self.merged.base
        weights = {name: w for name, w in base.weights().items() if is_before(base, name, self.layers)}
        return f"front {self.layers} {fingerprint(weights)} {settings(base)}"

    def smaller(self) -> Front | None:
        return replace(self, layers=0) if self.layers else None
