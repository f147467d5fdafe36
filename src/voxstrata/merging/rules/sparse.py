"""Sparse task vectors, and signs that are elected among them: TIES and Model Breadcrumbs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from voxstrata.merging.rules.arithmetic import ScaledRule
from voxstrata.merging.rules.options import Densities, ScaledOptions, Shares, of_expert
from voxstrata.merging.rules.rule import TensorToMerge, in_slices, with_vectors


class SparseOptions(ScaledOptions):
    """Options of rules that keep a part of each task vector.

    Args:
        density: share of each task vector's weights that are kept, in every tensor: a number, or a list with
            one per expert.
        majority: how a weight's sign is elected, by the sum of the vectors there (mass) or by the number of
            experts (count).
        normalize: what becomes of weights whose sign is elected. Left out, it is as in the paper: each
            expert's vote counts alike, and the sum is divided by the number of experts of the elected sign.
            true and false are as in mergekit: votes count by coefficient, and the sum is divided by the
            coefficients of the experts of the elected sign (true), or not divided (false). Without an
            election true divides by the sum of all coefficients.
    """

    density: Densities = (0.5,)
    majority: Literal["mass", "count"] = "mass"


class CombinedOptions(SparseOptions):
    """Options of rules that may elect signs.

    Args:
        combine: add the sparse vectors as they are (linear), or those whose sign is elected (ties).
    """

    combine: Literal["linear", "ties"] = "linear"


Sparse = TypeVar("Sparse", bound=SparseOptions)
Selection = Callable[[Tensor], Tensor]


class SparseRule(ScaledRule[Sparse]):
    """A rule that keeps a part of each task vector, and adds all of it or what agrees in sign."""

    @abstractmethod
    def selection(self, tensor: TensorToMerge, expert: int, options: Sparse) -> Selection:
        """What keeps a part of an expert's task vector.

        Args:
            tensor: what is merged.
            expert: k, from 0.
            options: of the merge.

        Returns:
            A function of rows of the task vector, which it may change in place. It is called for all rows, in
            order, in one or several parts.
        """

    def elects(self, options: Sparse) -> bool:
        """Whether signs are elected."""
        return isinstance(options, CombinedOptions) and options.combine == "ties"

    def divides_by_sum(self, options: Sparse) -> bool:
        """Only without an election; the coefficients of those of the elected sign are summed there."""
        return bool(options.normalize) and not self.elects(options)

    def edited(self, tensor: TensorToMerge, options: Sparse) -> Sequence[Tensor]:
        """What is kept of each vector, times the factor."""
        return self._selected(tensor, self._selections(tensor, options), options)

    def combined(self, tensor: TensorToMerge, options: Sparse) -> Tensor:
        """W + sum_k c_k dW'_k, some rows at a time."""
        selections = self._selections(tensor, options)
        return in_slices(tensor, lambda part: with_vectors(part, self._selected(part, selections, options)))

    def _selections(self, tensor: TensorToMerge, options: Sparse) -> list[Selection]:
        return [self.selection(tensor, k, options) for k in range(len(tensor.experts))]

    def _selected(
        self, part: TensorToMerge, selections: Sequence[Selection], options: Sparse
    ) -> Sequence[Tensor]:
        vectors = [select(delta) for select, delta in zip(selections, part.deltas, strict=True)]
        if self.elects(options):
            _keep_elected(vectors, part, options)
        return self.scaled(vectors, part, options)


class TiesOptions(SparseOptions):
    """Options of `ties`."""

    density: Densities = (0.2,)


class Ties(SparseRule[TiesOptions]):
    """TIES: trim, elect signs, mean of those that agree.

    With t_k the trimmed vectors, s = sgn(sum_k sgn(c_k) t_k) and A the experts with sgn(c_k t_k) = s, at each
    weight W + sum_{k in A} c_k t_k / |A|; the paper has one coefficient for all. The paper trims a vector as
    a whole, this rule (as mergekit and PEFT) each tensor. Weights of the same magnitude as the smallest that
    is kept are kept too. Where masses cancel no sign is elected and nothing is added, by the paper's
    sgn(0) = 0; mergekit and PEFT take the positive sign there.
    """

    name = "ties"
    paper = "Yadav et al. 2023, TIES-Merging, algorithm 1 (arXiv 2306.01708)"
    options = TiesOptions

    def elects(self, options: TiesOptions) -> bool:
        """Always."""
        return True

    def selection(self, tensor: TensorToMerge, expert: int, options: TiesOptions) -> Selection:
        """The largest weights by magnitude."""
        return _by_magnitude(tensor, expert, of_expert(options.density, tensor, expert), 0.0)


class BreadcrumbsOptions(CombinedOptions):
    """Options of `breadcrumbs`.

    Args:
        gamma: share of the largest weights of each task vector that are dropped, if the density allows: a
            number, or a list with one per expert. Of the smallest so many are dropped that `density` is
            left.
    """

    gamma: Shares = (0.01,)


class Breadcrumbs(SparseRule[BreadcrumbsOptions]):
    """Model Breadcrumbs: W + sum_k c_k m_k dW_k; the mask m_k drops the smallest and the largest of a tensor.

    The paper's beta is 1 - density - gamma and its gamma 1 - gamma; the names are mergekit's. Weights of the
    same magnitude as the smallest or the largest that is kept are kept too.
    """

    name = "breadcrumbs"
    paper = "Davari and Belilovsky 2023, Model Breadcrumbs (arXiv 2312.06795)"
    options = BreadcrumbsOptions

    def selection(self, tensor: TensorToMerge, expert: int, options: BreadcrumbsOptions) -> Selection:
        """The weights of middle magnitude."""
        density, gamma = (of_expert(each, tensor, expert) for each in (options.density, options.gamma))
        return _by_magnitude(tensor, expert, density, gamma)


def _by_magnitude(tensor: TensorToMerge, expert: int, density: float, largest: float) -> Selection:
    """What keeps weights of a task vector by the rank of their magnitude.

    Args:
        tensor: what is merged.
        expert: k, from 0.
        density: share that is kept; at least one weight is.
        largest: share of the largest that is dropped first, if the density allows.
    """
    magnitudes = _magnitudes(tensor, expert)
    size = magnitudes.size
    kept = max(1, round(density * size))
    end = size - min(round(largest * size), size - kept)
    begin = end - kept
    magnitudes.partition([begin, end - 1])
    low, high = float(magnitudes[begin]), float(magnitudes[end - 1])

    def select(delta: Tensor) -> Tensor:
        sizes = delta.abs()
        if begin:
            delta.masked_fill_(sizes < low, 0.0)
        if end < size:
            delta.masked_fill_(sizes > high, 0.0)
        return delta

    return select


def _magnitudes(tensor: TensorToMerge, expert: int) -> np.ndarray[Any, Any]:
    """The sizes of all weights of a task vector, some rows at a time."""
    alone = replace(tensor, experts=tensor.experts[expert : expert + 1], coefficients=(1.0,), statistics=())
    return in_slices(alone, lambda part: (part.experts[0] - part.base).abs_()).numpy().reshape(-1)


def _keep_elected(vectors: Sequence[Tensor], tensor: TensorToMerge, options: SparseOptions) -> None:
    """Zero what disagrees with the elected sign, and divide by the number or weight of those that agree.

    Args:
        vectors: of the experts; changed in place.
        tensor: what is merged.
        options: how votes are counted.
    """
    votes = tensor.signs if options.normalize is None else tensor.coefficients
    elected = torch.zeros_like(vectors[0])
    for vector, vote in zip(vectors, votes, strict=True):
        elected.add_(vector.sign() if options.majority == "count" else vector, alpha=vote)
    elected.sign_()
    agreed = torch.zeros_like(elected)
    for vector, vote in zip(vectors, votes, strict=True):
        agrees = vector.sign().mul_(elected) * vote > 0
        vector.masked_fill_(~agrees, 0.0)
        agreed.add_(agrees, alpha=vote if options.normalize else 1)
    if options.normalize is False:
        return
    agreed.masked_fill_(agreed == 0, 1.0)
    for vector in vectors:
        vector.div_(agreed)
