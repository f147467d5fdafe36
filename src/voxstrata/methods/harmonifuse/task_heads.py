"""Heads of several tasks on fused states of a language model: tokens for words, classes for the rest."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class TaskHeads(nn.Module):
    """One linear map to tokens, and one to the classes of each class task.

    Args:
        size: D of the fused states.
        classes: task -> number of its classes; without those that are written in words.
        tokens: size of the vocabulary; None: nothing is written in words.
        output: a pretrained map to tokens, used as it is, frozen, in place of a new one.
    """

    def __init__(
        self, size: int, *, classes: Mapping[str, int], tokens: int | None, output: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.classes = nn.ModuleDict({name: nn.Linear(size, count) for name, count in classes.items()})
        self.tokens = nn.Linear(size, tokens) if tokens is not None and output is None else None
        # In a tuple, so that it stays a part of the language model alone.
        self._given = (output,)

    def class_logits(self, fused: Tensor, task: str) -> Tensor:
        """[B, D] of the last prompt position, which sees all speech and no text -> [B, C]."""
        logits: Tensor = self.classes[task](fused)
        return logits

    def token_logits(self, fused: Tensor) -> Tensor:
        """[..., D] -> [..., V] for the token that follows each position.

        Raises:
            ValueError: if nothing is written in words.
        """
        head = self._given[0] or self.tokens
        if head is None:
            raise ValueError("these heads tell nothing in words")
        logits: Tensor = head(fused)
        return logits
