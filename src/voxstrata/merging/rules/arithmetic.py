"""Task arithmetic: sums of task vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from voxstrata.errors import RecipeError
from voxstrata.merging.rules.averages import vanishes
from voxstrata.merging.rules.options import ScaledOptions
from voxstrata.merging.rules.rule import TensorToMerge, VectorRule

Scaled = TypeVar("Scaled", bound=ScaledOptions)


class ScaledRule(VectorRule[Scaled]):
    """A rule whose sum of vectors has a factor and may be divided by the sum of the coefficients."""

    def learnable(self, options: Scaled) -> bool:
        """Not if the coefficients' sum or size is part of the edit."""
        return options.normalize is None

    def divides_by_sum(self, options: Scaled) -> bool:
        """Whether the sum of vectors is divided by the sum of the coefficients."""
        return bool(options.normalize)

    def check(self, coefficients: Sequence[float], options: Scaled) -> None:
        """Refuse a division by 0, too."""
        super().check(coefficients, options)
        divides = self.divides_by_sum(options) and any(coefficients)
        if divides and vanishes(math.fsum(coefficients), coefficients):
            raise RecipeError(
                f"{self.name}: normalize divides by the sum of the coefficients, which is 0; "
                "set normalize to false or change them"
            )

    def scaled(self, vectors: list[Tensor], tensor: TensorToMerge, options: Scaled) -> list[Tensor]:
        """The vectors times the factor, divided by the sum of the coefficients if that is asked for."""
        total = math.fsum(tensor.coefficients) if self.divides_by_sum(options) else 1.0
        factor = options.factor / total
        return vectors if factor == 1 else [vector.mul_(factor) for vector in vectors]


class TaskArithmetic(ScaledRule[ScaledOptions]):
    """W + sum_k c_k dW_k."""

    name = "task-arithmetic"
    paper = "Ilharco et al. 2023, Editing Models with Task Arithmetic, section 2 (arXiv 2212.04089)"
    options = ScaledOptions
    elementwise = True

    def edited(self, tensor: TensorToMerge, options: ScaledOptions) -> Sequence[Tensor]:
        """The vectors as they are, times the factor."""
        return self.scaled(list(tensor.deltas), tensor, options)
