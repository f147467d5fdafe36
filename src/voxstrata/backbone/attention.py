"""Which attention a transformers speech encoder computes: the fast one or transformers' own.

WavLM's own attention in transformers holds all its weights and position biases, [B, H, T, T] several times
over; `FastWavLMAttention` gives the same to rounding. wav2vec 2.0 and HuBERT have a fast one of their own.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from voxstrata.backbone.gated_attention import gated_attention
from voxstrata.errors import CheckpointError

Attention = Literal["fast", "reference"]


class FastWavLMAttention(WavLMAttention):  # type: ignore[misc]  # of transformers, which has no types
    """WavLM's attention by `gated_attention`, with the parameters of transformers' class.

    It replaces the class of a module that exists, so that names, hooks and copies stay what they are.
    What layer 1 hands to the others as position bias is [H, 2T - 1], by distance. No attention weights
    are given out: for `output_attentions` choose the reference.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        index: int = 0,
        **_: Any,
    ) -> tuple[Tensor, None, Tensor]:
        """Attended states [B, T, D], no weights, and the position bias [H, 2T - 1].

        Args:
            hidden_states: [B, T, D].
            attention_mask: bool [B, T], true on valid frames.
            position_bias: [H, 2T - 1] from layer 1; None in layer 1.
            index: of the layer; not needed.
        """
        frames = hidden_states.shape[1]
        if position_bias is None:
            position_bias = self.compute_bias_by_distance(frames)
        split = (*hidden_states.shape[:-1], self.num_heads, self.head_dim)
        gates = self.gru_rel_pos_linear(hidden_states.view(split))
        first, second = torch.sigmoid(gates.view(*split[:-1], 2, 4).sum(-1)).unbind(-1)
        gate = first * (second * self.gru_rel_pos_const.view(-1) - 1.0) + 2.0
        attended = gated_attention(
            self.q_proj(hidden_states).view(split),
            self.k_proj(hidden_states).view(split),
            self.v_proj(hidden_states).view(split),
            gate,
            position_bias,
            None if attention_mask is None else attention_mask.ne(1),
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.flatten(2)), None, position_bias

    def compute_bias_by_distance(self, frames: int) -> Tensor:
        """[H, 2T - 1]: the bias of the distances key - query from -(T - 1) to T - 1."""
        distances = torch.arange(1 - frames, frames, device=self.rel_attn_embed.weight.device)
        bias: Tensor = self.rel_attn_embed(self._relative_positions_bucket(distances))
        return bias.T.contiguous()


def set_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Makes a model compute the fast attention or transformers' own, in place; weights stay what they are.

    Args:
        model: a transformers speech encoder.
        attention: "fast", or "reference" for transformers' own, which holds all attention weights.

    Raises:
        CheckpointError: if there is no such choice.
    """
    if attention not in ("fast", "reference"):
        raise CheckpointError(f"unknown attention {attention!r}; allowed are fast, reference")
    fast = attention == "fast"
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa" if fast else "eager")
    for module in model.modules():
        if type(module) in (WavLMAttention, FastWavLMAttention):
            module.__class__ = FastWavLMAttention if fast else WavLMAttention
