"""Averages along arcs: spherical interpolation of two experts, and the Karcher mean of any number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from voxstrata.config.strict import Positive, Strict
from voxstrata.merging.rules.averages import AverageRule
from voxstrata.merging.rules.rule import SLICE, NoOptions, TensorToMerge, weighted_sum

#: Below this sine two directions count as parallel.
_PARALLEL = 1e-6


class Slerp(AverageRule[NoOptions]):
    """Spherical interpolation from expert 1 to expert 2, t = w_2 / (w_1 + w_2), of a tensor as one vector.

    (sin((1 - t) a) W_1 + sin(t a) W_2) / sin a, where a is the angle between them. Nearly parallel or
    opposite tensors, and those that are zero, are averaged (mergekit: from a cosine of 0.9995 on).
    """

    name = "slerp"
    paper = "Shoemake 1985, Animating Rotation with Quaternion Curves (10.1145/325334.325242)"
    experts = (2, 2)
    negative_weights = True

    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: NoOptions) -> Tensor:
        """A point of the arc."""
        first, second = tensor.experts
        return interpolated(first.reshape(1, -1), second.reshape(1, -1), shares[1]).view(tensor.base.shape)


class NuSlerpOptions(Strict):
    """Options of `nuslerp`.

    Args:
        along: interpolate each tensor as one vector (tensor), its rows (outputs of a linear layer or
            convolution) or its columns.
        of: interpolate task vectors, which are added to the base, or the experts' weights.
    """

    along: Literal["tensor", "rows", "columns"] = "tensor"
    of: Literal["vectors", "weights"] = "vectors"


class NuSlerp(AverageRule[NuSlerpOptions]):
    """Spherical interpolation as in `slerp`, of task vectors or weights, of whole tensors, rows or columns.

    W + slerp_t(dW_1, dW_2). One-dimensional tensors are one row. mergekit names the two ways round: with
    `nuslerp_flatten: false` its `nuslerp_row_wise: false` interpolates rows, and true columns.
    """

    name = "nuslerp"
    paper = "Goddard et al. 2024, Arcee's MergeKit (arXiv 2403.13257), method nuslerp; Shoemake 1985"
    options = NuSlerpOptions
    experts = (2, 2)
    negative_weights = True

    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: NuSlerpOptions) -> Tensor:
        """A point of each arc."""
        shape = tensor.base.shape
        pair = tensor.deltas if options.of == "vectors" else tensor.experts
        as_rows = options.along == "tensor" or len(shape) < 2
        first, second = (each.reshape(1, -1) if as_rows else each.flatten(1) for each in pair)
        if options.along == "columns" and not as_rows:
            merged = interpolated(first.T, second.T, shares[1]).T
        else:
            merged = interpolated(first, second, shares[1])
        merged = merged.reshape(shape)
        return merged.add_(tensor.base) if options.of == "vectors" else merged


class KarcherOptions(Strict):
    """Options of `karcher`.

    Args:
        max_iter: steps at most.
        tol: length of a step, in radians, below which the mean is found.
    """

    max_iter: Positive = 100
    tol: Annotated[float, Field(gt=0, le=1)] = 1e-12


class Karcher(AverageRule[KarcherOptions]):
    """The Riemannian (Karcher) mean of the experts' directions, times the mean of their norms.

    The point m of the unit sphere with sum_k w_k log_m(W_k / |W_k|) = 0, found by m <- exp_m(that sum) from
    the average of the directions, times sum_k w_k |W_k|. A tensor is one vector. A tensor that is zero has no
    direction and counts for the norm alone. Directions that cancel (their average is shorter than 1e-6), and
    single numbers, have no such mean: they are averaged.
    """

    name = "karcher"
    paper = "Karcher 1977, Riemannian Center of Mass (10.1002/cpa.3160300502), on the sphere"
    options = KarcherOptions

    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: KarcherOptions) -> Tensor:
        """The mean direction times the mean norm."""
        norms = [float(torch.linalg.vector_norm(expert)) for expert in tensor.experts]
        found = [
            (expert / norm, w) for expert, norm, w in zip(tensor.experts, norms, shares, strict=True) if norm
        ]
        if not found:
            return tensor.base * 0.0
        total = math.fsum(weight for _, weight in found)
        directions, weights = [unit for unit, _ in found], [weight / total for _, weight in found]
        mean = weighted_sum(directions, weights)
        length = float(torch.linalg.vector_norm(mean))
        if length < _PARALLEL or tensor.base.numel() == 1:
            return weighted_sum(tensor.experts, shares)
        mean.div_(length)
        for _ in range(options.max_iter):
            step = _towards(mean, directions, weights)
            size = float(torch.linalg.vector_norm(step))
            if size < options.tol:
                break
            mean = mean.mul_(math.cos(size)).add_(step, alpha=math.sin(size) / size)
            mean.div_(torch.linalg.vector_norm(mean))
        return mean.mul_(math.fsum(w * norm for w, norm in zip(shares, norms, strict=True)))


def _towards(mean: Tensor, directions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k w_k log_m(u_k), the tangent at m that points to the mean of the u_k."""
    total = torch.zeros_like(mean)
    for direction, weight in zip(directions, weights, strict=True):
        cosine = float(torch.sum(mean * direction))
        across = torch.add(direction, mean, alpha=-cosine)
        sine = float(torch.linalg.vector_norm(across))
        if sine:
            total.add_(across, alpha=weight * math.atan2(sine, cosine) / sine)
    return total


def interpolated(first: Tensor, second: Tensor, t: float) -> Tensor:
    """Spherical interpolation of each row.

    Args:
        first: [rows, size].
        second: the same shape.
        t: 0 gives the first, 1 the second.
    """
    lengths = [_lengths(first), _lengths(second)]
    zero = (lengths[0] == 0) | (lengths[1] == 0)
    one, other = (length.masked_fill(zero, 1.0) for length in lengths)
    # The angle between the unit vectors u and v is 2 atan2(|u - v|, |u + v|), exact for small angles too.
    chord, middle = torch.zeros_like(one), torch.zeros_like(one)
    width = max(1, SLICE // len(first))
    for ours, theirs in zip(torch.split(first, width, dim=1), torch.split(second, width, dim=1), strict=True):
        unit, to = ours / one, theirs / other
        chord += (unit - to).square_().sum(dim=1, keepdim=True)
        middle += unit.add_(to).square_().sum(dim=1, keepdim=True)
    chord, middle = chord.sqrt_(), middle.sqrt_()
    angle = 2 * torch.atan2(chord, middle)
    sine = torch.sin(angle)
    linear = (sine < _PARALLEL) | zero
    sine = sine.masked_fill(linear, 1.0)
    left = torch.where(linear, 1 - t, torch.sin((1 - t) * angle) / sine)
    right = torch.where(linear, t, torch.sin(t * angle) / sine)
    return (left * first).addcmul_(right, second)


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return lengths
