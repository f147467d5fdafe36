"""CTC head: frames to characters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxstrata.errors import CheckpointError
from voxstrata.predictions import NOT_FINITE
from voxstrata.vocabulary import Vocabulary


class CTCHead(nn.Module):
    """LayerNorm and one linear map to the vocabulary; index 0 is the blank.

    Args:
        size: D, features of a frame.
        vocabulary: the characters.
        norm: without it, frames go to the linear map as they are.
    """

    def __init__(self, size: int, vocabulary: Vocabulary, *, norm: bool = True) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.norm = nn.LayerNorm(size) if norm else nn.Identity()
        self.lm_head = nn.Linear(size, len(vocabulary))

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, D] -> logits [B, T, V]."""
        logits: Tensor = self.lm_head(self.norm(frames))
        return logits

    def transcribe(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Greedy decoding: [B, T, V], [B] valid frames -> B texts.

        Raises:
            CheckpointError: if logits are not finite.
        """
        if not torch.isfinite(logits).all():
            raise CheckpointError(NOT_FINITE)
        paths = logits.argmax(-1).tolist()
        return [
            self.vocabulary.collapse(path[:length])
            for path, length in zip(paths, lengths.tolist(), strict=True)
        ]
