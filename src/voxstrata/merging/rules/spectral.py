"""Rules that work on the singular values of task matrices: TSV-Merge and isotropic merging."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from voxstrata.merging.rules.rule import NoOptions, TensorToMerge, VectorRule, weighted_sum


class TsvMerge(VectorRule[NoOptions]):
    """TSV-Merge: of each task matrix the first 1/K singular directions, made orthogonal between experts.

    With dW_k = U_k S_k V_k^T cut to rank r = max(1, min(out, in) // K), U = [U_1 ... U_K] and
    V = [V_1 ... V_K] are replaced by the nearest matrices with orthonormal columns (Procrustes: P Q^T for
    U = P D Q^T), and W + sum_k c_k U'_k S_k V'_k^T; the paper has one coefficient for all. Singular values
    that are zero to rounding take no part, since their directions are arbitrary. All that is no matrix
    (biases, norms, convolutions) is averaged, as in the paper: W + sum_k c_k dW_k / K.
    """

    name = "tsv-m"
    paper = "Gargiulo et al. 2025, Task Singular Vectors (arXiv 2412.00081)"

    def edited(self, tensor: TensorToMerge, options: NoOptions) -> Sequence[Tensor]:
        """The matrices U'_k S_k V'_k^T."""
        deltas = tensor.deltas
        if len(deltas) == 1 or tensor.base.ndim != 2:
            return _averaged(deltas)
        rank = max(1, min(tensor.base.shape) // len(deltas))
        parts = [_decomposed(delta, rank) for delta in deltas]
        sizes = [len(values) for _, values, _ in parts]
        left = _nearest_orthonormal(torch.cat([left for left, _, _ in parts], dim=1))
        right = _nearest_orthonormal(torch.cat([right for _, _, right in parts], dim=1))
        return [
            (u * values) @ v.T
            for u, (_, values, _), v in zip(
                torch.split(left, sizes, dim=1), parts, torch.split(right, sizes, dim=1), strict=True
            )
        ]


class IsoC(VectorRule[NoOptions]):
    """Iso-C: the sum of task matrices with all its singular values set to their mean.

    With D = sum_k sgn(c_k) dW_k = U S V^T and s the mean of S, each vector becomes s dW_k V S^-1 V^T (of wide
    matrices s U S^-1 U^T dW_k), so that coefficients of one size c give the paper's W + c s U V^T. Singular
    values that are zero to rounding stay zero and do not count in the mean, since their directions are
    arbitrary. All that is no matrix is averaged, as in the paper: W + sum_k c_k dW_k / K. One expert alone
    changes too.
    """

    name = "iso-c"
    paper = "Marczak et al. 2025, No Task Left Behind (arXiv 2502.04959)"

    def edited(self, tensor: TensorToMerge, options: NoOptions) -> Sequence[Tensor]:
        """Each vector's part of the flattened sum."""
        deltas, shape = tensor.deltas, tensor.base.shape
        if len(shape) != 2:
            return _averaged(deltas)
        left, values, right = _decomposed(weighted_sum(deltas, tensor.signs), min(shape))
        if not len(values):
            return deltas
        factors = values.mean() / values
        if shape[0] >= shape[1]:
            flatten = (right * factors) @ right.T
            return [delta @ flatten for delta in deltas]
        flatten = (left * factors) @ left.T
        return [flatten @ delta for delta in deltas]


def _averaged(deltas: Sequence[Tensor]) -> Sequence[Tensor]:
    """The vectors divided by their number."""
    return deltas if len(deltas) == 1 else [delta / len(deltas) for delta in deltas]


def _decomposed(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values of a matrix that are not zero, with their vectors.

    Args:
        matrix: [out, in].
        rank: how many at most.

    Returns:
        [out, r], [r] and [in, r].
    """
    wide = matrix.shape[0] < matrix.shape[1]
    # LAPACK takes twice as long for wide matrices.
    left, values, right = torch.linalg.svd(matrix.T if wide else matrix, full_matrices=False)
    zero = values[:1] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    kept = min(rank, int((values > zero).sum()))
    left, values, right = left[:, :kept], values[:kept], right[:kept].T
    return (right, values, left) if wide else (left, values, right)


def _nearest_orthonormal(matrix: Tensor) -> Tensor:
    """P Q^T of a matrix P D Q^T; directions whose D is zero are left out."""
    left, _, right = _decomposed(matrix, min(matrix.shape))
    return left @ right.T
