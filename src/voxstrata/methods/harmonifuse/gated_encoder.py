"""Gated encoder fusion: which of the encoder's layers a task hears (HarmoniFuse, arXiv 2509.18570)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.errors import RecipeError
from voxstrata.heads.layer_sum import normalized, weighted_sum
from voxstrata.methods.harmonifuse.options import EncoderFusionMode

#: The key of the vector that all tasks share.
SHARED = "shared"


class GatedEncoderFusion(nn.Module):
    """H_fused = sum_{l=1..L} softmax(w)_l H_l over the encoder's layers, its front end left out.

    The paper's w is learned, the same for all clips. One vector per task and the normalisation of the layers
    are ours: layers differ in scale by orders of magnitude, and w would learn that first.

    Args:
        num_layers: L.
        tasks: names of the tasks.
        mode: "gated"; "fixed": layer number `layer` alone; "last": layer L alone. These two have no
            parameters.
        layer: 1..L, for "fixed" only.
        per_task: a vector w for each task; else one for all. Start: zeros, all layers equal.
        normalize: bring each layer to zero mean and unit variance over its features first, without
            parameters; off is the literal equation.

    Raises:
        RecipeError: if the mode is unknown, or `layer` does not fit it.
    """

    def __init__(
        self,
        num_layers: int,
        tasks: Sequence[str],
        *,
        mode: EncoderFusionMode = "gated",
        layer: int | None = None,
        per_task: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if mode not in get_args(EncoderFusionMode):
            allowed = ", ".join(get_args(EncoderFusionMode))
            raise RecipeError(f"encoder fusion {mode!r} is unknown; allowed are {allowed}")
        if mode == "fixed" and not (layer is not None and 1 <= layer <= num_layers):
            raise RecipeError(
                f"encoder fusion is 'fixed' at layer {layer}; this encoder has layers 1 to {num_layers}"
            )
        if mode != "fixed" and layer is not None:
            raise RecipeError(f"layer {layer} is given for encoder fusion {mode!r}; it needs 'fixed'")
        self.num_layers = num_layers
        self.only = {"gated": None, "fixed": layer, "last": num_layers}[mode]
        self.per_task = per_task
        self.normalize = normalize
        names = () if mode != "gated" else tuple(tasks) if per_task else (SHARED,)
        self.logits = nn.ParameterDict({name: nn.Parameter(torch.zeros(num_layers)) for name in names})

    def weights(self, task: str) -> Tensor:
        """[L] of a task: not negative, sum to 1."""
        if self.only is not None:
            return F.one_hot(torch.tensor(self.only - 1), self.num_layers).float()
        return torch.softmax(self.logits[task if self.per_task else SHARED], dim=0)

    def forward(self, layers: Sequence[Tensor], task: str) -> Tensor:
        """L tensors [B, T, D] -> [B, T, D], for a task.

        Raises:
            ValueError: if the number of states is not L.
        """
        if len(layers) != self.num_layers:
            raise ValueError(f"{len(layers)} states for {self.num_layers} layers")
        if self.only is not None:
            state = layers[self.only - 1]
            return normalized(state) if self.normalize else state
        states = [normalized(state) for state in layers] if self.normalize else layers
        wide = torch.promote_types(layers[0].dtype, torch.float32)
        return weighted_sum(self.weights(task), [state.to(wide) for state in states]).to(layers[0].dtype)
