"""Prompt-adaptive dynamic layer fusion of a language model's layers (HarmoniFuse, arXiv 2509.18570)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from voxstrata.errors import RecipeError
from voxstrata.methods.harmonifuse.options import LayerScores


class Fused(NamedTuple):
    """Fused states [B, T, D], and the weights [B, T, L] that made them."""

    states: Tensor
    alpha: Tensor


class PromptAdaptiveFusion(nn.Module):
    """alpha^tau_l(t) = softmax_l( s^tau_l + FFN(h_l(t)) ), y(t) = sum_l alpha^tau_l(t) h_l(t).

    Stated are the scalar of task and layer, the small feed-forward network on the hidden state, and the
    softmax over the language model's layers. Ours: the network is shared by the layers and works on each
    position by itself, so that no position sees what follows it; the embedding layer takes no part. The
    network's last map starts at zero, and has no bias, which the softmax would cancel.

    Args:
        num_layers: L.
        size: D, features of a hidden state.
        tasks: names of the tasks.
        scores: "both"; "task": s alone, the same weights at all positions; "input": the network alone;
            "last": no fusion, layer L is taken.
        width: of the network's hidden layer.
        last_start: what s^tau_L starts at; the others start at zero, so that 0 is uniform, and a positive
            number starts a pretrained model near its last layer. Not for "input".

    Raises:
        RecipeError: if the scores are unknown.
    """

    def __init__(
        self,
        num_layers: int,
        size: int,
        tasks: Sequence[str],
        *,
        scores: LayerScores = "both",
        width: int = 256,
        last_start: float = 0.0,
    ) -> None:
        super().__init__()
        if scores not in get_args(LayerScores):
            allowed = ", ".join(get_args(LayerScores))
            raise RecipeError(f"layer scores {scores!r} are unknown; allowed are {allowed}")
        self.num_layers = num_layers
        self.scores = scores
        start = torch.zeros(num_layers)
        start[-1] = last_start
        names = tuple(tasks) if scores in ("both", "task") else ()
        self.task_scores = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in names})
        self.network: nn.Sequential | None = None
        if scores in ("both", "input"):
            last = nn.Linear(width, 1, bias=False)
            nn.init.zeros_(last.weight)
            self.network = nn.Sequential(nn.Linear(size, width), nn.GELU(), last)

    def forward(self, layers: Sequence[Tensor], task: str) -> Fused:
        """L tensors [B, T, D] -> fused states [B, T, D] and alpha [B, T, L], for a task.

        Raises:
            ValueError: if the number of states is not L.
        """
        if len(layers) != self.num_layers:
            raise ValueError(f"{len(layers)} states for {self.num_layers} layers")
        last = layers[-1]
        if self.scores == "last":
            alpha = torch.zeros(*last.shape[:-1], self.num_layers, device=last.device)
            alpha[..., -1] = 1
            return Fused(last, alpha)
        alpha = torch.softmax(self._scores(layers, task), dim=-1)
        fused = alpha[..., :1].to(last.dtype) * layers[0]
        for index, state in enumerate(layers[1:], start=1):
            fused = fused + alpha[..., index : index + 1].to(last.dtype) * state
        return Fused(fused, alpha)

    def _scores(self, layers: Sequence[Tensor], task: str) -> Tensor:
        """[B, T, L], at least in float32."""
        wide = torch.promote_types(layers[0].dtype, torch.float32)
        scores = torch.zeros(*layers[0].shape[:-1], self.num_layers, dtype=wide, device=layers[0].device)
        if self.network is not None:
            scores = torch.cat([self.network(state) for state in layers], dim=-1).to(wide)
        return scores + self.task_scores[task] if task in self.task_scores else scores
