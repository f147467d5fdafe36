"""What a model sees: padded tensors, and beside them what is known of each clip."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """What is known of a clip; carried through to its row of the predictions file."""

    id: str
    path: str | None = None
    speaker: str | None = None
    emotion: str | None = None
    transcript: str | None = None


@dataclass(frozen=True)
class Batch:
    """A padded batch of one task.

    Args:
        references: B entries.
        waveforms: float32 [B, N] raw samples at 16 kHz, zero behind each clip's end.
        lengths: int64 [B] valid samples.
        emotion_targets: float32 [B, C] soft class targets, rows sum to 1; None without labels.
        tokens: int64 [B, U] transcript tokens, zero behind the end; None without transcripts.
        token_lengths: int64 [B].
    """

    references: tuple[Reference, ...]
    waveforms: Tensor
    lengths: Tensor
    emotion_targets: Tensor | None = None
    tokens: Tensor | None = None
    token_lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.references)

    @property
    def ids(self) -> tuple[str, ...]:
        """The clips' ids."""
        return tuple(reference.id for reference in self.references)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            waveforms=self.waveforms.to(device),
            lengths=self.lengths.to(device),
            emotion_targets=move(self.emotion_targets),
            tokens=move(self.tokens),
            token_lengths=move(self.token_lengths),
        )
