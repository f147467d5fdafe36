"""Several encoders that hear the same clip, side by side: late fusion takes the layers of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.errors import CheckpointError


class ParallelEncoders(nn.Module):
    """The layers of K encoders of one frame rate and one size, those of the first one first.

    Args:
        encoders: name -> encoder, in this order.

    Raises:
        CheckpointError: if there are fewer than two, or they differ in features a frame.
    """

    def __init__(self, encoders: Mapping[str, SpeechEncoder]) -> None:
        super().__init__()
        sizes = {name: encoder.hidden_size for name, encoder in encoders.items()}
        if len(sizes) < 2 or len(set(sizes.values())) > 1:
            raise CheckpointError(
                "late fusion needs at least two experts with as many features a frame; found "
                f"{sizes or 'none'}: name runs or folders of such encoders"
            )
        self.names = tuple(encoders)
        self.members = nn.ModuleList(encoders.values())
        self.layer_counts = tuple(encoder.num_layers for encoder in encoders.values())
        self.num_layers = sum(self.layer_counts)
        self.hidden_size = next(iter(sizes.values()))

    @property
    def encoders(self) -> tuple[SpeechEncoder, ...]:
        """The encoders that were given."""
        return tuple(member for member in self.members if isinstance(member, SpeechEncoder))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> States:
        """Hidden states of all encoders.

        Args:
            waveforms: [B, N] raw samples at 16 kHz.
            lengths: [B] valid samples.

        Raises:
            CheckpointError: if the encoders differ in frame rate.
        """
        frames = self.frame_lengths(lengths)
        states = [encoder(waveforms, lengths) for encoder in self.encoders]
        return States(tuple(layer for part in states for layer in part.layers), frames)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames [B] of clips with these many samples [B].

        Raises:
            CheckpointError: if the encoders differ in frame rate.
        """
        first, *others = (encoder.frame_lengths(lengths) for encoder in self.encoders)
        if not all(torch.equal(first, other) for other in others):
            raise CheckpointError(
                f"the experts {', '.join(self.names)} give different numbers of frames; "
                "fuse experts of one frame rate"
            )
        return first

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Writes a plain transformers folder for each encoder, under its name.

        Args:
            folder: made if need be.
            dtype: of the stored tensors; None keeps theirs.
        """
        for name, encoder in zip(self.names, self.encoders, strict=True):
            encoder.save(folder / name, dtype=dtype)
