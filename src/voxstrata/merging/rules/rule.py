"""What a merge rule is: arithmetic on one tensor of a base and of K experts.

The merge command and `MergedBackbone` know rules by these two classes alone. A rule that only edits task
vectors (trimming, dropping, choosing signs) is a `VectorRule`: its result is W + sum_k c_k dW'_k, so that
its coefficients can be learned as well as given. A rule that combines weights in another way is a `Rule`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from voxstrata.config.strict import Strict


class NoOptions(Strict):
    """Options of a rule that has none."""


@dataclass(frozen=True)
class TensorToMerge:
    """One tensor of the base and of the experts.

    Args:
        name: in the names of the base.
        base: any shape, float64.
        experts: K tensors of that shape, float64. K is at least 1.
        coefficients: K numbers, those of this tensor's layer.
        seed: of this tensor; it follows from the seed of the merge and from the name alone, so that the order
            of tensors changes nothing.
    """

    name: str
    base: Tensor
    experts: tuple[Tensor, ...]
    coefficients: tuple[float, ...]
    seed: int = 0

    @cached_property
    def deltas(self) -> tuple[Tensor, ...]:
        """The K task vectors: expert - base."""
        return tuple(expert - self.base for expert in self.experts)

    def generator(self, expert: int) -> torch.Generator:
        """A source of random numbers for one expert's delta, on the CPU.

        Args:
            expert: k, from 0.
        """
        return torch.Generator().manual_seed((self.seed + 0x9E3779B97F4A7C15 * (expert + 1)) % 2**63)


Options = TypeVar("Options", bound=Strict)


class Rule(ABC, Generic[Options]):
    """A merge rule.

    Attributes:
        name: as users write it (`--method`).
        paper: authors, year, arXiv number or address, and the equation that `merge` computes.
        options: the schema of what may be set beside the coefficients.
        experts: the smallest and the largest number of experts; None for no bound.
        weights_sum_to_one: whether coefficients are weights of an average (linear, slerp), not factors of
            task vectors.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    options: ClassVar[type[Strict]] = NoOptions
    experts: ClassVar[tuple[int, int | None]] = (1, None)
    weights_sum_to_one: ClassVar[bool] = False

    @abstractmethod
    def merge(self, tensor: TensorToMerge, options: Options) -> Tensor:
        """The merged tensor, float64, in the shape of the base.

        If the options change nothing, coefficients of zero give the base bit for bit, and a single expert at
        coefficient 1 gives its own weights bit for bit.
        """


class VectorRule(Rule[Options]):
    """A rule that edits task vectors and adds them: W + sum_k c_k dW'_k."""

    @abstractmethod
    def edited(self, tensor: TensorToMerge, options: Options) -> Sequence[Tensor]:
        """The K edited task vectors dW'_k, float64; they do not depend on the coefficients' size.

        A rule whose edit depends on the sign of coefficients may read it from `tensor`.
        """

    def merge(self, tensor: TensorToMerge, options: Options) -> Tensor:
        """W + sum_k c_k dW'_k."""
        merged = tensor.base.clone()
        for delta, coefficient in zip(self.edited(tensor, options), tensor.coefficients, strict=True):
            if coefficient:
                merged.add_(delta, alpha=coefficient)
        return merged
