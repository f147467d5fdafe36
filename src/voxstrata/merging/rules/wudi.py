"""WUDI-Merging: the task matrix that disturbs each expert least, found by gradient descent without data."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from voxstrata.config.strict import Positive, Strict
from voxstrata.merging.rules.rule import Rule, TensorToMerge, weighted_sum

#: Of Adam, as in the paper's code.
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class WudiOptions(Strict):
    """Options of `wudi`.

    Args:
        steps: of Adam, for each matrix.
        learning_rate: of Adam.
    """

    steps: Positive = 300
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5


class Wudi(Rule[WudiOptions]):
    """W + D, where D minimises sum_k |(D - T_k) T_k^T|^2 / |T_k|^2 over the vectors T_k = c_k dW_k.

    Adam (betas 0.9 and 0.999, epsilon 1e-8, no weight decay) starts from D = sum_k T_k and takes `steps`
    steps in float64 with the exact gradient; nothing is random. The paper has no coefficients: give ones.
    All that is no matrix (biases, norms, convolutions) is averaged: W + sum_k c_k dW_k / K. A matrix takes
    `steps` products [out, in] x [in, in]: minutes for a large one.
    """

    name = "wudi"
    paper = "Cheng et al. 2025, WUDI-Merging (arXiv 2503.08099)"
    options = WudiOptions

    def combined(self, tensor: TensorToMerge, options: WudiOptions) -> Tensor:
        """The base plus the matrix that was found."""
        if tensor.coefficients == (1.0,):
            return tensor.experts[0]
        count = len(tensor.experts)
        matrices = [delta * c for delta, c in zip(tensor.deltas, tensor.coefficients, strict=True)]
        merged = weighted_sum(matrices, [1.0] * count)
        if tensor.base.ndim != 2:
            return merged.div_(count).add_(tensor.base)
        matrices = [matrix for matrix in matrices if matrix.any()]
        if len(matrices) > 1:
            _descend(merged, matrices, options)
        return merged.add_(tensor.base)


def _descend(merged: Tensor, matrices: list[Tensor], options: WudiOptions) -> None:
    """Steps of Adam on the sum of disturbances.

    The gradient 2 sum_k (D - T_k) T_k^T T_k / |T_k|^2 is 2 (D A - B) with A [in, in] and B [out, in].

    Args:
        merged: D; changed in place.
        matrices: T_k, none of which is zero.
        options: of the merge.
    """
    grams = [matrix.T @ matrix / matrix.square().sum() for matrix in matrices]
    product = weighted_sum([t @ gram for t, gram in zip(matrices, grams, strict=True)], [1.0] * len(grams))
    gram = weighted_sum(grams, [1.0] * len(grams))
    first, second = torch.zeros_like(merged), torch.zeros_like(merged)
    for step in range(1, options.steps + 1):
        gradient = (merged @ gram).sub_(product).mul_(2)
        first.mul_(_BETAS[0]).add_(gradient, alpha=1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        spread = (second / (1 - _BETAS[1] ** step)).sqrt_().add_(_EPSILON)
        merged.addcdiv_(first, spread, value=-options.learning_rate / (1 - _BETAS[0] ** step))
