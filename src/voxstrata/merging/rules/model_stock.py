"""Model Stock: how far to go from the base to the average, by the angle between task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from voxstrata.config.strict import Strict
from voxstrata.merging.rules.rule import SLICE, TensorToMerge, VectorRule


class ModelStockOptions(Strict):
    """Options of `model-stock`.

    Args:
        filter_wise: a ratio for each row (output of a linear layer or convolution), not for the whole tensor.
    """

    filter_wise: bool = False


class ModelStock(VectorRule[ModelStockOptions]):
    """W + t sum_k c_k dW_k / K with t = K cos / (1 + (K - 1) cos); coefficients of 1 give the paper's model.

    cos is the mean cosine over pairs of task vectors, since the paper has one angle for all pairs (mergekit
    also averages cosines). A mean cosine below 0, for which the paper has no ratio, gives t = 0 (mergekit: a
    negative t). A vector that is zero is orthogonal to all others. Each tensor has a ratio, a bias as well.
    """

    name = "model-stock"
    paper = "Jang et al. 2024, Model Stock (arXiv 2403.19522)"
    options = ModelStockOptions
    experts = (2, None)

    def edited(self, tensor: TensorToMerge, options: ModelStockOptions) -> Sequence[Tensor]:
        """The vectors times t / K."""
        deltas, shape = tensor.deltas, tensor.base.shape
        count = len(deltas)
        if count == 1:
            return deltas
        rows = options.filter_wise and len(shape) > 1
        flat = [delta.flatten(1) if rows else delta.reshape(1, -1) for delta in deltas]
        cosines = [_cosine(one, other) for one, other in combinations(flat, 2)]
        cosine = torch.stack(cosines).mean(dim=0).clamp(0.0, 1.0)
        ratio = count * cosine / (1 + (count - 1) * cosine)
        return [row.mul_(ratio / count).reshape(shape) for row in flat]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosines between rows [rows, size], as [rows, 1]; 0 where one is zero."""
    product = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    width = max(1, SLICE // len(one))
    parts = zip(torch.split(one, width, dim=1), torch.split(other, width, dim=1), strict=True)
    products = torch.stack([(ours * theirs).sum(dim=1) for ours, theirs in parts]).sum(dim=0)
    cosine: Tensor = products / product.masked_fill(product == 0, 1.0)
    return cosine.unsqueeze(1)
