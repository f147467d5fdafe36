"""Averages that weigh by what was measured on data: Fisher merging and RegMean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from voxstrata.config.strict import Strict
from voxstrata.errors import CheckpointError
from voxstrata.merging.rules.averages import AverageRule
from voxstrata.merging.rules.rule import NoOptions, TensorToMerge, finite, weighted_sum


class Fisher(AverageRule[NoOptions]):
    """sum_k w_k F_k W_k / sum_k w_k F_k at each weight; F_k is the diagonal of expert k's Fisher information.

    Where all F_k are zero, and for tensors without Fisher information, it is the plain average
    sum_k w_k W_k / sum_k w_k (the authors' code instead lifts the first expert's F_k to 1e-6). The F_k are
    taken as they are: if losses of different size shall not decide, divide each expert's by its norm over
    all tensors.
    """

    name = "fisher"
    paper = "Matena and Raffel 2022, Merging Models with Fisher-Weighted Averaging (arXiv 2111.09832)"
    elementwise = True
    statistics = "fisher"

    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: NoOptions) -> Tensor:
        """The average by weight and Fisher information."""
        average = weighted_sum(tensor.experts, shares)
        fishers = _checked(tensor, tuple(tensor.base.shape))
        if not fishers:
            return average
        if any((fisher < 0).any() for fisher in fishers):
            raise CheckpointError(
                f"{tensor.name}: Fisher information below 0; give mean squares of gradients"
            )
        total = weighted_sum(fishers, shares)
        weighted = weighted_sum(
            [fisher * expert for fisher, expert in zip(fishers, tensor.experts, strict=True)], shares
        )
        return torch.where(total > 0, weighted / total, average)


class RegMeanOptions(Strict):
    """Options of `regmean`.

    Args:
        alpha: factor of what is not on the diagonal of the Gram matrices; less than 1 keeps them from being
            singular.
    """

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9


class RegMean(AverageRule[RegMeanOptions]):
    """The linear layer nearest to all experts' outputs on their inputs: W = (sum_k w_k W_k G_k) G^-1.

    G_k is alpha X_k^T X_k with its diagonal whole, [in, in], and G = sum_k w_k G_k. Directions in which no
    expert had input keep the average of the weights. A convolution is a matrix [out, in * width], if it has
    Gram matrices of that size. Tensors without Gram matrices (biases, norms, embeddings) are averaged, as in
    the paper.
    """

    name = "regmean"
    paper = "Jin et al. 2023, Dataless Knowledge Fusion (arXiv 2212.09849)"
    options = RegMeanOptions
    statistics = "gram"

    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: RegMeanOptions) -> Tensor:
        """The average, moved to the solution of the regression."""
        average = weighted_sum(tensor.experts, shares)
        if tensor.base.ndim < 2:
            return average
        size = tensor.base[0].numel()
        grams = _checked(tensor, (size, size))
        if not grams:
            return average
        grams = [gram * options.alpha + torch.diag(gram.diagonal() * (1 - options.alpha)) for gram in grams]
        moved = weighted_sum(
            [(e - average).flatten(1) @ gram for e, gram in zip(tensor.experts, grams, strict=True)], shares
        )
        return average.add_(_solved(moved, weighted_sum(grams, shares)).view_as(average))


def _checked(tensor: TensorToMerge, shape: tuple[int, ...]) -> list[Tensor]:
    """The experts' statistics in float64; none where there are none.

    Raises:
        CheckpointError: if one has another shape or is not finite.
    """
    found = [statistic for statistic in tensor.statistics if statistic is not None]
    for number, statistic in enumerate(found):
        if tuple(statistic.shape) != shape:
            raise CheckpointError(
                f"{tensor.name}: the statistics of expert {tensor.number(number) + 1} have shape "
                f"{list(statistic.shape)}; {list(shape)} is needed"
            )
        if not finite(statistic):
            raise CheckpointError(
                f"{tensor.name}: the statistics of expert {tensor.number(number) + 1} are not finite"
            )
    return [statistic.double() for statistic in found]


def _solved(right: Tensor, gram: Tensor) -> Tensor:
    """X with X G = R, zero in directions that G does not have.

    Args:
        right: R [out, in], whose rows lie in the range of G.
        gram: G [in, in], symmetric and not negative.
    """
    scale = gram.diagonal().clamp_min(0).sqrt()
    scale = torch.where(scale > 0, 1 / scale, 0.0)
    scaled = gram * scale * scale[:, None]
    # Inputs that never came need no eigenvectors, which take ten times as long.
    scaled.diagonal().masked_fill_(scale == 0, 1.0)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not failed and factor.diagonal().min() > 1e-5:
        return torch.cholesky_solve((right * scale).T, factor).T * scale
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > values[-1] * len(values) * 1e-12
    basis = vectors[:, kept]
    solution: Tensor = (((right * scale) @ basis) / values[kept]) @ basis.T * scale
    return solution
