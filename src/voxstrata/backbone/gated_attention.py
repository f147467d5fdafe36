"""Attention with a gated relative position bias, piece by piece: no [B, H, T, T] is ever held.

WavLM (Chen et al. 2022, section 3.1) adds gate(b, h, i) * bias(h, j - i) to the scores of query i and key j.
The bias depends on the distance alone: its [H, 2T - 1] values are spread into the matrix of a few heads,
[h, T, T], which serves all clips, and the matrix's gradient is added up along its diagonals at the end.

Torch's fused CPU kernel takes a mask, but no mask that needs a gradient, and here it always does: the gate
comes from the hidden states. So the forward runs the fused kernel on a few heads at a time, and the
backward makes each piece's weights anew. Other devices get the whole mask and the kernel torch chooses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: Scores held at a time: 1 MB in float32, which stays in a core's own cache.
PIECE_SCORES = 2**18


def gated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    bias: Tensor,
    padded: Tensor | None = None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + gate * bias) v.

    Args:
        query: [B, T, H, d].
        key: [B, T, H, d].
        value: [B, T, H, d].
        gate: [B, T, H], of each query.
        bias: [H, 2T - 1], of the distances key - query from -(T - 1) to T - 1.
        padded: bool [B, T], true on keys that are not attended to; each clip needs one that is.
        dropout: share of the attention weights that is dropped.

    Returns:
        [B, T, H, d].
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    gate, bias = gate.to(exact), bias.to(exact)
    if query.device.type != "cpu":
        return masked_attention(query, key, value, gate, bias, padded, dropout=dropout)
    # The seed follows torch's own generator, so that a checkpointed layer drops the same weights again.
    seed = int(torch.randint(2**62, ())) if dropout else 0
    attended: Tensor = _GatedAttention.apply(query, key, value, gate, bias, padded, dropout, seed)
    return attended


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    bias: Tensor,
    padded: Tensor | None = None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """The same in one call of `scaled_dot_product_attention`, which holds one mask [B, H, T, T]."""
    mask = _mask(gate, _matrix(bias), padded)
    q, k, v = _heads(query), _heads(key), _heads(value)
    return _heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(query.dtype), dropout_p=dropout))


class _GatedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gate: Tensor,
        bias: Tensor,
        padded: Tensor | None,
        dropout: float,
        seed: int,
    ) -> Tensor:
        attended = torch.empty_like(query, memory_format=torch.contiguous_format)
        generator = torch.Generator().manual_seed(seed)
        rows_together, heads_together = _piece(query)
        with torch.autocast("cpu", enabled=False):
            for heads in heads_together:
                matrix = _matrix(bias[heads])
                for rows in rows_together:
                    at = (rows, slice(None), heads)
                    mask = _mask(gate[at], matrix, padded if padded is None else padded[rows])
                    q, k, v = _heads(query[at]), _heads(key[at]), _heads(value[at])
                    if dropout:
                        weights = _weights(mask, q, k)
                        weights.mul_(_kept(weights, dropout, generator))
                        piece = weights.to(v.dtype) @ v
                    else:
                        piece = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
                    attended[at] = _heads(piece)
        return attended

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:6], output)
        ctx.dropout, ctx.seed = inputs[6:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, attended_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, gate, bias, padded, attended = ctx.saved_tensors
        query_grad, key_grad, value_grad = (
            torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (query, key, value)
        )
        gate_grad = torch.empty_like(gate)
        bias_grad = torch.empty_like(bias) if ctx.needs_input_grad[4] else None
        generator = torch.Generator().manual_seed(ctx.seed)
        scale = query.shape[-1] ** -0.5
        rows_together, heads_together = _piece(query)
        with torch.autocast("cpu", enabled=False):
            # Of the softmax's gradient, the part that all keys of a query share.
            shared = (attended_grad.to(gate.dtype) * attended).sum(-1, keepdim=True)
            for heads in heads_together:
                matrix = _matrix(bias[heads])
                matrix_grad = torch.zeros_like(matrix)
                for rows in rows_together:
                    at = (rows, slice(None), heads)
                    q, k, v, grad = (
                        _heads(tensor[at]).contiguous().to(gate.dtype)
                        for tensor in (query, key, value, attended_grad)
                    )
                    mask = _mask(gate[at], matrix, padded if padded is None else padded[rows])
                    weights = _weights(mask, q, k)
                    weights_grad = grad @ v.mT
                    used = weights
                    if ctx.dropout:
                        kept = _kept(weights, ctx.dropout, generator)
                        weights_grad.mul_(kept)
                        used = weights * kept
                    value_grad[at] = _heads(used.mT @ grad)
                    scores_grad = weights_grad.sub_(_heads(shared[at])).mul_(weights)
                    query_grad[at] = _heads(scores_grad @ k).mul_(scale)
                    key_grad[at] = _heads(scores_grad.mT @ q).mul_(scale)
                    gate_grad[at] = _heads(torch.mul(scores_grad, matrix, out=mask).sum(-1))
                    if bias_grad is not None:
                        matrix_grad += scores_grad.mul_(_heads(gate[at]).unsqueeze(-1)).sum(0)
                if bias_grad is not None:
                    bias_grad[heads] = _sum_by_distance(matrix_grad)
        return query_grad, key_grad, value_grad, gate_grad, bias_grad, None, None, None


def _piece(query: Tensor) -> tuple[list[slice], list[slice]]:
    """Rows and heads that are computed together: at most PIECE_SCORES scores, or one head."""
    batch, frames, heads, _ = query.shape
    together = max(1, PIECE_SCORES // frames**2)
    rows, columns = max(1, together // heads), min(heads, together)
    return (
        [slice(row, row + rows) for row in range(0, batch, rows)],
        [slice(head, head + columns) for head in range(0, heads, columns)],
    )


def _heads(tensor: Tensor) -> Tensor:
    """[B, T, H, ...] and [B, H, T, ...] to each other."""
    return tensor.transpose(1, 2)


def _matrix(bias: Tensor) -> Tensor:
    """[H, T, T] of query and key, from the values [H, 2T - 1] by distance."""
    return bias.unfold(-1, bias.shape[-1] // 2 + 1, 1).flip(1)


def _mask(gate: Tensor, matrix: Tensor, padded: Tensor | None) -> Tensor:
    """[B, H, T, T] from gate [B, T, H], matrix [H, T, T] and padded [B, T]."""
    mask = _heads(gate).contiguous().unsqueeze(-1) * matrix
    return mask if padded is None else mask.masked_fill_(padded[:, None, None], -torch.inf)


def _weights(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Attention weights [B, H, T, T]; the mask's memory is used up."""
    scores, scale = mask.view(-1, *mask.shape[2:]), query.shape[-1] ** -0.5
    query, key = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    if query.dtype == scores.dtype:
        scores.baddbmm_(query, key, alpha=scale)
    else:
        scores.add_(query @ key, alpha=scale)
    return torch.softmax(mask, -1)


def _kept(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)


def _sum_by_distance(matrix: Tensor) -> Tensor:
    """Sums along the diagonals: [H, T, T] to [H, 2T - 1]."""
    heads, frames, _ = matrix.shape
    # Queries in reverse order, and rows read one shorter than they are: each stands one further right.
    rows = F.pad(matrix.flip(1), (0, frames))
    skewed = rows.flatten(1)[:, : frames * (2 * frames - 1)].view(heads, frames, 2 * frames - 1)
    return skewed.sum(1)
