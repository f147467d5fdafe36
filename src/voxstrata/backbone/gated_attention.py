"""Attention with a gated relative position bias, piece by piece: no [B, H, T, T] is ever held.

WavLM (Chen et al. 2022, section 3.1) adds gate(b, h, i) * bias(h, j - i) to the scores of query i and key j.
The bias depends on the distance alone: its [H, 2T - 1] values are spread into the matrix of a few heads,
[h, T, T], which serves all clips, and the matrix's gradient is added up along its diagonals at the end.

Torch's fused CPU kernel takes a mask, but no mask that needs a gradient, and here it always does: the gate
comes from the hidden states. So forward and backward make the weights of a few heads of a few clips at a
time, in the gate's precision. Other devices get the whole mask and the kernel torch chooses.
"""

from __future__ import annotations

from collections.abc import Callable
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
    attend: Callable[..., Tensor] = _GatedAttention.apply
    return attend(query, key, value, gate, bias, padded, dropout, seed)


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
    mask = _mask(_by_query(gate), _matrix(bias), _hidden(padded, gate.dtype))
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
        q, k, v = (_by_head(tensor, gate.dtype) for tensor in (query, key, value))
        gates, hidden = _by_query(gate), _hidden(padded, gate.dtype)
        attended = torch.empty_like(v)
        generator = torch.Generator().manual_seed(seed)
        rows_together, heads_together = _piece(query)
        with torch.autocast("cpu", enabled=False):
            for heads in heads_together:
                matrix = _matrix(bias[heads])
                for rows in rows_together:
                    at = (rows, heads)
                    mask = _mask(gates[at], matrix, hidden if hidden is None else hidden[rows])
                    weights = _weights(mask, q[at], k[at])
                    if dropout:
                        weights.mul_(_kept(weights, dropout, generator))
                    _product(weights, v[at], out=attended[at])
        return _heads(attended).to(query.dtype).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:6], output)
        ctx.dropout, ctx.seed = inputs[6:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, attended_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, gate, bias, padded, attended = ctx.saved_tensors
        q, k, v, grad = (_by_head(tensor, gate.dtype) for tensor in (query, key, value, attended_grad))
        gates, hidden = _by_query(gate), _hidden(padded, gate.dtype)
        q_grad, k_grad, v_grad, gates_grad = (torch.empty_like(tensor) for tensor in (q, k, v, gates))
        bias_grad = torch.empty_like(bias) if ctx.needs_input_grad[4] else None
        generator = torch.Generator().manual_seed(ctx.seed)
        rows_together, heads_together = _piece(query)
        with torch.autocast("cpu", enabled=False):
            # Of the softmax's gradient, the part that all keys of a query share.
            shared = (grad * _heads(attended)).sum(-1, keepdim=True)
            for heads in heads_together:
                matrix = _matrix(bias[heads])
                matrix_grad = torch.zeros_like(matrix)
                for rows in rows_together:
                    at = (rows, heads)
                    mask = _mask(gates[at], matrix, hidden if hidden is None else hidden[rows])
                    weights = _weights(mask, q[at], k[at])
                    weights_grad = _product(grad[at], v[at].mT, out=torch.empty_like(weights))
                    used = weights
                    if ctx.dropout:
                        kept = _kept(weights, ctx.dropout, generator)
                        weights_grad.mul_(kept)
                        used = weights * kept
                    _product(used.mT, grad[at], out=v_grad[at])
                    scores_grad = weights_grad.sub_(shared[at]).mul_(weights)
                    _product(scores_grad, k[at], out=q_grad[at])
                    _product(scores_grad.mT, q[at], out=k_grad[at])
                    torch.sum(torch.mul(scores_grad, matrix, out=mask), -1, keepdim=True, out=gates_grad[at])
                    if bias_grad is not None:
                        matrix_grad += scores_grad.mul_(gates[at]).sum(0)
                if bias_grad is not None:
                    bias_grad[heads] = _sum_by_distance(matrix_grad)
            scale = query.shape[-1] ** -0.5
            grads = (q_grad.mul_(scale), k_grad.mul_(scale), v_grad)
        given = (query, key, value)
        of_inputs = (_heads(grad).to(tensor.dtype) for grad, tensor in zip(grads, given, strict=True))
        return *of_inputs, _heads(gates_grad).squeeze(-1), bias_grad, None, None, None


def _piece(query: Tensor) -> tuple[list[slice], list[slice]]:
    """Rows and heads that are computed together: at most PIECE_SCORES scores, or one head.

    All heads of some rows, or some heads of one row: either way without gaps in memory, [B, H, ...].
    """
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


def _by_head(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T, H, d] to [B, H, T, d] without gaps: converted once, not piece by piece."""
    return _heads(tensor).to(dtype).contiguous()


def _by_query(gate: Tensor) -> Tensor:
    """[B, T, H] to [B, H, T, 1]."""
    return _heads(gate).contiguous().unsqueeze(-1)


def _hidden(padded: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores of keys [B, 1, 1, T]: minus infinity on those not attended to."""
    if padded is None:
        return None
    added = torch.zeros(padded.shape, dtype=dtype, device=padded.device)
    return added.masked_fill_(padded, -torch.inf)[:, None, None]


def _matrix(bias: Tensor) -> Tensor:
    """[H, T, T] of query and key, from the values [H, 2T - 1] by distance."""
    return bias.unfold(-1, bias.shape[-1] // 2 + 1, 1).flip(1)


def _mask(gates: Tensor, matrix: Tensor, hidden: Tensor | None) -> Tensor:
    """[B, H, T, T] from gates [B, H, T, 1], matrix [H, T, T] and what hides keys [B, 1, 1, T]."""
    return gates * matrix if hidden is None else torch.addcmul(hidden, gates, matrix)


def _weights(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Attention weights [B, H, T, T]; the mask's memory is used up."""
    scores, scale = mask.view(-1, *mask.shape[2:]), query.shape[-1] ** -0.5
    scores.baddbmm_(query.flatten(0, 1), key.flatten(0, 1).mT, alpha=scale)
    return torch.softmax(mask, -1)


def _product(first: Tensor, second: Tensor, *, out: Tensor) -> Tensor:
    """Writes first @ second of [B, H, ...] into memory that is there and has no gaps."""
    torch.bmm(first.flatten(0, 1), second.flatten(0, 1), out=out.view(-1, *out.shape[2:]))
    return out


def _kept(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)


def _sum_by_distance(matrix: Tensor) -> Tensor:
    """Sums along the diagonals: [H, T, T] to [H, 2T - 1]."""
    heads, frames, _ = matrix.shape
    # Queries in reverse order, and rows read one shorter than they are: each stands one further right.
    rows = F.pad(matrix.flip(1), (0, frames))
    skewed = rows.flatten(1)[:, : frames * (2 * frames - 1)].view(heads, frames, 2 * frames - 1)
    return skewed.sum(1)
