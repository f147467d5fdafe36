"""Weighted averages of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from voxstrata.config.strict import Rate, Strict
from voxstrata.merging.rules.rule import AverageRule, TensorToMerge, weighted_sum


class LinearOptions(Strict):
    """Options of `linear`.

    Args:
        normalize: divide the weights by their sum.
        base_weight: weight of the base among the experts.
    """

    normalize: bool = True
    base_weight: Rate = 0.0


class Linear(AverageRule[LinearOptions]):
    """sum_k w_k W_k / sum_k w_k, a model soup; the base is one of the W_k if it has a weight."""

    name = "linear"
    paper = "Wortsman et al. 2022, Model soups, section 2 (arXiv 2203.05482)"
    options = LinearOptions
    elementwise = True
    negative_weights = True

    def total(self, coefficients: Sequence[float], options: LinearOptions) -> float:
        """The sum of all weights, or 1 if they are taken as they are."""
        if options.normalize:
            return math.fsum([options.base_weight, *coefficients])
        return 1.0 if any(coefficients) else 0.0

    def combined(self, tensor: TensorToMerge, options: LinearOptions) -> Tensor:
        """The sum; an expert's own weights if it has all the weight."""
        total = self.total(tensor.coefficients, options)
        shares = tuple(weight / total for weight in tensor.coefficients)
        if shares == (1.0,) and not options.base_weight:
            return tensor.experts[0]
        return self.averaged(tensor, shares, options)

    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: LinearOptions) -> Tensor:
        """The sum of experts, and of the base, times their shares."""
        average = weighted_sum(tensor.experts, shares)
        if options.base_weight:
            average.add_(tensor.base, alpha=options.base_weight / self.total(tensor.coefficients, options))
        return average
