"""Weighted averages of weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from voxstrata.config.strict import Rate, Strict
from voxstrata.errors import RecipeError
from voxstrata.merging.rules.rule import Options, Rule, TensorToMerge, weighted_sum


class AverageRule(Rule[Options]):
    """A rule that averages weights: coefficients count in relation to their sum.

    Attributes:
        negative_weights: whether a weight may be below 0.
    """

    weights_sum_to_one = True
    negative_weights: ClassVar[bool] = False

    def check(self, coefficients: Sequence[float], options: Options) -> None:
        """Refuse what cannot be averaged, too: weights below 0, and those whose sum is 0."""
        super().check(coefficients, options)
        if not self.negative_weights and min(coefficients) < 0:
            raise RecipeError(f"{self.name}: weights of an average are 0 or more; found {min(coefficients)}")
        if vanishes(self.total(coefficients, options), coefficients):
            shown = ", ".join(f"{coefficient:g}" for coefficient in coefficients)
            raise RecipeError(
                f"{self.name}: the weights {shown} sum to 0; give weights with another sum, in every layer"
            )

    def total(self, coefficients: Sequence[float], options: Options) -> float:
        """What weights are divided by: their sum."""
        return math.fsum(coefficients)

    def combined(self, tensor: TensorToMerge, options: Options) -> Tensor:
        """The average; a single expert's own weights."""
        if len(tensor.experts) == 1:
            return tensor.experts[0]
        total = self.total(tensor.coefficients, options)
        return self.averaged(tensor, tuple(weight / total for weight in tensor.coefficients), options)

    @abstractmethod
    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: Options) -> Tensor:
        """The average of two or more experts, whose shares sum to 1 and are not 0."""


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
        """The sum, also of a single expert and the base."""
        total = self.total(tensor.coefficients, options)
        shares = tuple(weight / total for weight in tensor.coefficients)
        return self.averaged(tensor, shares, options)

    def averaged(self, tensor: TensorToMerge, shares: Sequence[float], options: LinearOptions) -> Tensor:
        """The sum of experts, and of the base, times their shares."""
        average = weighted_sum(tensor.experts, shares)
        if options.base_weight:
            average.add_(tensor.base, alpha=options.base_weight / self.total(tensor.coefficients, options))
        return average


def vanishes(total: float, parts: Sequence[float]) -> bool:
    """Whether a sum is 0 to rounding, so that nothing can be divided by it."""
    return abs(total) <= 1e-9 * max(map(abs, parts))
