"""Task arithmetic: sums of task vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from voxstrata.merging.rules.rule import NoOptions, TensorToMerge, VectorRule


class TaskArithmetic(VectorRule[NoOptions]):
    """W + sum_k c_k dW_k."""

    name = "task-arithmetic"
    paper = "Ilharco et al. 2023, Editing Models with Task Arithmetic, section 2 (arXiv 2212.04089)"

    def edited(self, tensor: TensorToMerge, options: NoOptions) -> Sequence[Tensor]:
        """The vectors as they are."""
        return tensor.deltas

    def merge(self, tensor: TensorToMerge, options: NoOptions) -> Tensor:
        """W + sum_k c_k dW_k; the expert itself where it is the only one and its coefficient is 1."""
        used = [k for k, coefficient in enumerate(tensor.coefficients) if coefficient]
        if len(used) == 1 and tensor.coefficients[used[0]] == 1:
            return tensor.experts[used[0]]
        return super().merge(tensor, options)
