"""Task vectors of which weights are dropped at random and the rest is enlarged: DARE and DELLA."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from voxstrata.merging.rules.options import Densities, Shares, of_expert
from voxstrata.merging.rules.rule import TensorToMerge
from voxstrata.merging.rules.sparse import CombinedOptions, Selection, SparseRule


class DropOptions(CombinedOptions):
    """Options of rules that drop at random.

    Args:
        rescale: divide what is kept by its probability, so that the vector stays the same on average.
    """

    rescale: bool = True


class Dare(SparseRule[DropOptions]):
    """DARE: each weight of a task vector is kept with probability p = density, and then divided by p.

    W + sum_k c_k m_k dW_k / p, or the signs of TIES elected among these vectors, without trimming. mergekit
    divides by the share of the vector's L1 norm that is left, not by p.
    """

    name = "dare"
    paper = "Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099)"
    options = DropOptions

    def selection(self, tensor: TensorToMerge, expert: int, options: DropOptions) -> Selection:
        """The weights that a draw keeps, enlarged."""
        density = of_expert(options.density, tensor, expert)
        generator = tensor.generator(expert)

        def select(delta: Tensor) -> Tensor:
            if density == 1:
                return delta
            delta.masked_fill_(_draws(delta, generator) >= density, 0.0)
            return delta.div_(density) if options.rescale else delta

        return select


class DellaOptions(DropOptions):
    """Options of `della`.

    Args:
        epsilon: the width of the range of probabilities, around `density`: a number, or a list with one per
            expert.
        combine: add the sparse vectors as they are (linear), or those whose sign is elected (ties).
    """

    density: Densities = (0.5,)
    epsilon: Shares = (0.2,)
    combine: Literal["linear", "ties"] = "ties"

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        """Every probability lies in [0, 1].

        Raises:
            ValueError: if not.
        """
        count = max(len(self.density), len(self.epsilon))
        if {len(self.density), len(self.epsilon)} <= {1, count}:
            for k in range(count):
                density, epsilon = self.density[k % len(self.density)], self.epsilon[k % len(self.epsilon)]
                most = 2 * min(density, 1 - density)
                if density < 1 and epsilon > most + 1e-12:
                    raise ValueError(
                        f"epsilon: found {epsilon:g} with density {density:g}; at most {most:g} is allowed"
                    )
        return self


class Della(SparseRule[DellaOptions]):
    """DELLA: as DARE, but the larger of a row's weights are dropped with a smaller probability.

    MagPrune ranks the n weights of a row from the largest, r = 0, to the smallest, r = n - 1, and drops one
    with probability p_r = p - epsilon / 2 + r epsilon / n, where p = 1 - density; what is kept is divided by
    1 - p_r. Then signs are elected as in TIES. The width epsilon is the paper's, twice that of mergekit and
    of the authors' code. A vector is one row, a convolution has a row per output channel. Density 1 drops
    nothing.
    """

    name = "della"
    paper = "Deep et al. 2024, DELLA-Merging (arXiv 2406.11617)"
    options = DellaOptions

    def selection(self, tensor: TensorToMerge, expert: int, options: DellaOptions) -> Selection:
        """The weights that a draw keeps, enlarged."""
        density = of_expert(options.density, tensor, expert)
        epsilon = of_expert(options.epsilon, tensor, expert)
        generator = tensor.generator(expert)

        def select(delta: Tensor) -> Tensor:
            if density == 1:
                return delta
            rows = delta.flatten(1) if delta.ndim > 1 else delta.reshape(1, -1)
            width = rows.shape[1]
            order = rows.abs().argsort(dim=1, descending=True, stable=True)
            by_rank = density + epsilon / 2 - torch.arange(width, dtype=rows.dtype) * (epsilon / width)
            kept = torch.empty_like(rows).scatter_(1, order, by_rank.expand_as(rows)).view(delta.shape)
            delta.masked_fill_(_draws(delta, generator) >= kept, 0.0)
            return delta.div_(kept) if options.rescale else delta

        return select


def _draws(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers from [0, 1) for each weight, the same in one or several parts and for any number of threads."""
    return torch.rand(rows.shape, dtype=torch.float64, generator=generator)
