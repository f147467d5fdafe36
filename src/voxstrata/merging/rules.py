"""Merge rules: arithmetic on weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from voxstrata.backbone.groups import layer_index


def merge_tensor(weight: Tensor, deltas: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """W + sum_k c_k dW_k of one tensor, in the weight's precision.

    Args:
        weight: any shape.
        deltas: K tensors of that shape, of any precision.
        coefficients: K scalars [].
    """
    for delta, coefficient in zip(deltas, coefficients, strict=True):
        weight = weight + coefficient.to(weight.dtype) * delta.to(weight.dtype)
    return weight


def task_arithmetic(
    base: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Tensor]], coefficients: Tensor
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
        merged[name] = merge_tensor(weight, [deltas[k][name] for k in present], [row[k] for k in present])
    return merged
