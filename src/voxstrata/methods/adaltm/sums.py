"""Sums of task vectors (AdaLTM, equation 4): with a graph, without one, and their derivative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from voxstrata.backbone.groups import layer_index
from voxstrata.methods.adaltm.factors import Change, Factors, multiplied_out

#: Entries that are merged or multiplied at a time on a CPU, so that they stay in a core's cache.
_BLOCK = 2**17


def merged_weights(
    base: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Change]], coefficients: Tensor
) -> dict[str, Tensor]:
    """W(l) = W_base(l) + sum_k c_k(l) dW_k(l) (AdaLTM, equation 4). Differentiable in the coefficients.

    Args:
        base: name -> weight.
        deltas: K task vectors, name -> difference; a name that one lacks is zero there. Tensors that all
            lack are the base's own, and cost nothing.
        coefficients: [1 + L, K], a row per group; or [1, K], one row for all.

    Returns:
        name -> merged weight.
    """
    rows = [row.unbind(0) for row in coefficients.unbind(0)]
    merged = {}
    for name, weight in base.items():
        row = rows[layer_index(name) if len(rows) > 1 else 0]
        present = [k for k, vector in enumerate(deltas) if name in vector]
        merged[name] = _merged_tensor(weight, [deltas[k][name] for k in present], [row[k] for k in present])
    return merged


@torch.no_grad()
def merge_values(weight: Tensor, deltas: Sequence[Change | None], values: Sequence[float]) -> Tensor:
    """W + sum_k c_k dW_k of one tensor, without a graph, temporaries or copies of the deltas.

    Args:
        weight: any shape.
        deltas: K tensors or factors of that shape, of any precision; None for zero.
        values: K coefficients.

    Returns:
        A new tensor in the weight's precision.

    >>> merge_values(torch.ones(2), [torch.ones(2), None], [0.5, 9.0])
    tensor([1.5000, 1.5000])
    """
    pairs = [*zip(deltas, values, strict=True)]
    present = [(delta, value) for delta, value in pairs if isinstance(delta, Tensor)]
    merged = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    sources = [_blocks(weight), *(_blocks(delta) for delta, _ in present)]
    for target, source, *changes in zip(_blocks(merged), *sources, strict=True):
        for change, (_, value) in zip(changes, present, strict=True):
            torch.add(source, change, alpha=value, out=target)
            source = target
        if not present:
            target.copy_(source)
    for delta, value in pairs:
        if isinstance(delta, Factors):
            delta.add_to(merged, value)
    return merged


def merged_weight_values(
    base: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Change]], coefficients: Tensor
) -> dict[str, Tensor]:
    """`merged_weights` without a graph; the same arguments."""
    rows: list[list[float]] = coefficients.detach().tolist()
    merged = {}
    for name, weight in base.items():
        row = rows[layer_index(name) if len(rows) > 1 else 0]
        changes = [vector.get(name) for vector in deltas]
        unchanged = all(change is None for change in changes)
        merged[name] = weight if unchanged else merge_values(weight, changes, row)
    return merged


@torch.no_grad()
def inner_products(gradient: Tensor, deltas: Sequence[Change | None]) -> Tensor:
    """<dL/dW, dW_k> for K deltas: the gradients of their coefficients, [K] in float64.

    Args:
        gradient: any shape.
        deltas: K tensors or factors of that shape, of any precision; None for zero.

    >>> inner_products(torch.tensor([1.0, 2.0]), [torch.tensor([3.0, 4.0]), None]).tolist()
    [11.0, 0.0]
    """
    precision = torch.promote_types(gradient.dtype, torch.float32)
    present = {k: _blocks(delta) for k, delta in enumerate(deltas) if isinstance(delta, Tensor)}
    products: dict[int, list[Tensor]] = {k: [] for k in present}
    for number, block in enumerate(_blocks(gradient)):
        block = block.to(precision)
        for k, blocks in present.items():
            # Not torch.dot: on some processors its error is ten times as large.
            products[k].append((block * blocks[number].to(precision)).sum())
    result = torch.zeros(len(deltas), dtype=torch.float64, device=gradient.device)
    for k, parts in products.items():
        result[k] = sum(part.double() for part in parts)
    for k, delta in enumerate(deltas):
        if isinstance(delta, Factors):
            result[k] = delta.inner_product(gradient)
    return result


def _merged_tensor(weight: Tensor, deltas: Sequence[Change], coefficients: Sequence[Tensor]) -> Tensor:
    """W + sum_k c_k dW_k of one tensor, in the weight's precision.

    Args:
        weight: any shape.
        deltas: K tensors or factors of that shape, of any precision.
        coefficients: K scalars [].
    """
    for delta, coefficient in zip(deltas, coefficients, strict=True):
        weight = weight + coefficient.to(weight.dtype) * multiplied_out(delta).to(weight.dtype)
    return weight


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    flat = tensor.reshape(-1)
    whole = flat.numel() <= _BLOCK or flat.device.type != "cpu"
    return (flat,) if whole else torch.split(flat, _BLOCK)
