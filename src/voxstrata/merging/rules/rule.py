"""What a merge rule is: arithmetic on one tensor of a base and of K experts.

The merge command and `MergedBackbone` know rules by these two classes alone. A `VectorRule` only edits task
vectors (trimming, dropping, choosing signs): its result is W + sum_k c_k dW'_k, so that its coefficients can
be learned as well as given. Any other rule is a `Rule`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor

from voxstrata.config.strict import Strict
from voxstrata.errors import CheckpointError, RecipeError, counted

#: Weights that are merged at a time, where a rule can.
SLICE = 2**20


class NoOptions(Strict):
    """Options of a rule that has none."""


class Widened(Sequence[Tensor]):
    """Tensors in float64, each made when it is asked for: experts need not be there at the same time.

    Args:
        tensors: in the precision that they are stored in.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._tensors)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Widened: ...

    def __getitem__(self, index: int | slice) -> Tensor | Widened:
        if isinstance(index, slice):
            return Widened(self._tensors[index])
        return self._tensors[index].double()

    @property
    def stored(self) -> Sequence[Tensor]:
        """The tensors as they are stored."""
        return self._tensors

    def rows(self, rows: slice) -> Widened:
        """The same rows of each."""
        return Widened([tensor[rows] for tensor in self._tensors])

    def chosen(self, numbers: Sequence[int]) -> Widened:
        """Those of some numbers."""
        return Widened([self._tensors[number] for number in numbers])


@dataclass(frozen=True)
class TensorToMerge:
    """One tensor of the base and of the experts.

    Args:
        name: in the names of the base.
        base: any shape, float64.
        experts: K tensors of that shape, float64; or `Widened` ones. K is at least 1.
        coefficients: K numbers, those of this tensor's layer.
        seed: of this tensor; it follows from the seed of the merge and from the name alone, so that the order
            of tensors changes nothing.
        statistics: K tensors, what was measured of each expert on data (`Rule.statistics`); None for an
            expert where there is nothing to measure, such as the Gram matrix of a bias.
        numbers: places of these experts among all experts of the merge, from 0; all, if left out.

    Raises:
        CheckpointError: if shapes differ.
        ValueError: if the numbers of experts and coefficients differ, or a tensor is not float64.
    """

    name: str
    base: Tensor
    experts: tuple[Tensor, ...] | Widened
    coefficients: tuple[float, ...]
    seed: int = 0
    statistics: tuple[Tensor | None, ...] = ()
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.experts) != len(self.coefficients):
            raise ValueError(f"{len(self.experts)} experts, {len(self.coefficients)} coefficients")
        lazy = isinstance(self.experts, Widened)
        for number, tensor in enumerate((self.base, *self.stored)):
            if tensor.dtype != torch.float64 and not (lazy and number):
                raise ValueError(f"{self.name}: found {tensor.dtype}; rules compute in float64")
            if tensor.shape != self.base.shape:
                shape, wanted = list(tensor.shape), list(self.base.shape)
                raise CheckpointError(
                    f"{self.name}: expert {number} has shape {shape}, the base {wanted}; "
                    "give experts that were fine-tuned from this base"
                )

    @property
    def stored(self) -> Sequence[Tensor]:
        """The experts' tensors as they are stored, for what does not depend on the precision."""
        return self.experts.stored if isinstance(self.experts, Widened) else self.experts

    @property
    def deltas(self) -> tuple[Tensor, ...]:
        """The K task vectors, expert - base, as new tensors."""
        return tuple(expert - self.base for expert in self.experts)

    @property
    def signs(self) -> tuple[int, ...]:
        """-1, 0 or 1 for each coefficient."""
        return tuple((coefficient > 0) - (coefficient < 0) for coefficient in self.coefficients)

    def rows(self, rows: slice) -> TensorToMerge:
        """Some rows of the tensor, with those of its statistics."""
        if isinstance(self.experts, Widened):
            experts = tuple(self.experts.rows(rows))
        else:
            experts = tuple(expert[rows] for expert in self.experts)
        return replace(
            self,
            base=self.base[rows],
            experts=experts,
            statistics=tuple(each if each is None else each[rows] for each in self.statistics),
        )

    def number(self, expert: int) -> int:
        """The place of an expert of this tensor among all experts of the merge.

        Args:
            expert: k, from 0.
        """
        return self.numbers[expert] if self.numbers else expert

    def generator(self, expert: int) -> torch.Generator:
        """A source of random numbers for one expert's delta, on the CPU.

        Args:
            expert: k, from 0.
        """
        step = 0x9E3779B97F4A7C15 * (self.number(expert) + 1)
        return torch.Generator().manual_seed((self.seed + step) % 2**63)

    def taking_part(self) -> TensorToMerge:
        """The same with those experts only whose coefficient is not 0."""
        used = [k for k, coefficient in enumerate(self.coefficients) if coefficient]
        if len(used) == len(self.experts):
            return self
        chosen = self.experts.chosen(used) if isinstance(self.experts, Widened) else None
        return replace(
            self,
            experts=tuple(self.experts[k] for k in used) if chosen is None else chosen,
            coefficients=tuple(self.coefficients[k] for k in used),
            statistics=tuple(self.statistics[k] for k in used) if self.statistics else (),
            numbers=tuple(self.number(k) for k in used),
        )


Options = TypeVar("Options", bound=Strict)


class Rule(ABC, Generic[Options]):
    """A merge rule. An expert whose coefficient is 0 takes no part: all is as if it were not there.

    Attributes:
        name: as users write it (`--method`).
        paper: authors, year, arXiv number or address, and the equation that `merge` computes.
        options: the schema of what may be set beside the coefficients.
        experts: the smallest and the largest number of experts; None for no bound.
        weights_sum_to_one: whether coefficients are weights of an average (linear, slerp), not factors of
            task vectors.
        elementwise: whether each weight is merged by itself, so that a tensor may be merged in slices; its
            statistics, too.
        statistics: what the rule needs of each expert beside its weights: `fisher`, the diagonal of the
            Fisher information in the shape of the tensor, or `gram`, the sum of x x^T over the inputs x of
            a linear layer [in, in].
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    options: ClassVar[type[Strict]] = NoOptions
    experts: ClassVar[tuple[int, int | None]] = (1, None)
    weights_sum_to_one: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    statistics: ClassVar[Literal["fisher", "gram"] | None] = None

    def merge(self, tensor: TensorToMerge, options: Options) -> Tensor:
        """The merged tensor, float64, in the shape of the base; perhaps one of the given tensors itself.

        If the options change nothing, coefficients of zero give the base bit for bit, and a single expert at
        coefficient 1 (for an average: with any weight) gives its own weights bit for bit.

        Raises:
            RecipeError: if the number of experts, coefficients or options do not fit the rule.
            CheckpointError: if statistics are missing or do not fit, or weights are not finite.
        """
        self.check(tensor.coefficients, options)
        self._check_statistics(tensor)
        used = tensor.taking_part()
        if not used.experts or not tensor.base.numel():
            return tensor.base
        # Rules that drop or compare weights may lose a NaN on the way; sums of single weights cannot.
        if not self.elementwise:
            _refuse_not_finite(used)
        if self.elementwise:
            merged = in_slices(used, lambda part: self.combined(part, options))
        else:
            merged = self.combined(used, options)
        if not finite(merged):
            _refuse_not_finite(used)
            raise CheckpointError(
                f"{tensor.name}: {self.name} gives weights that are not finite; give smaller coefficients"
            )
        return merged

    @abstractmethod
    def combined(self, tensor: TensorToMerge, options: Options) -> Tensor:
        """What `merge` gives, for experts whose coefficients are not 0."""

    def check(self, coefficients: Sequence[float], options: Options) -> None:
        """Refuse what cannot be merged, without any weights.

        Args:
            coefficients: one of each expert, of one layer.
            options: of the merge.

        Raises:
            RecipeError: if the number of experts, coefficients or options do not fit.
        """
        (least, most), found = self.experts, len(coefficients)
        if found < least or (most is not None and found > most):
            bound = f"{least}" if least == most else f"{least} or more"
            raise RecipeError(f"{self.name} merges {bound} experts; found {found}; change their number")
        for number, coefficient in enumerate(coefficients, start=1):
            if not math.isfinite(coefficient):
                raise RecipeError(
                    f"{self.name}: the coefficient of expert {number} is {coefficient}; give a finite number"
                )
        for option, values in options:
            if isinstance(values, tuple) and len(values) not in (1, found):
                raise RecipeError(
                    f"{self.name}: {option} has {counted(len(values), 'value')} for "
                    f"{counted(found, 'expert')}; give one for all, or one for each"
                )

    def _check_statistics(self, tensor: TensorToMerge) -> None:
        """Statistics are there for all experts, or there are none of this tensor for any.

        Raises:
            CheckpointError: if not.
        """
        if self.statistics is None:
            return
        missing = [k for k, statistic in enumerate(tensor.statistics, start=1) if statistic is None]
        if len(tensor.statistics) != len(tensor.experts):
            found = f"found {len(tensor.statistics)} for {counted(len(tensor.experts), 'expert')}"
        elif missing and len(missing) < len(tensor.experts):
            found = f"expert {missing[0]} has none"
        else:
            return
        raise CheckpointError(
            f"{tensor.name}: {self.name} needs the {self.statistics} statistics of every expert; {found}; "
            "measure them on the data of each expert (voxstrata merge-statistics)"
        )


class VectorRule(Rule[Options]):
    """A rule that edits task vectors and adds them: W + sum_k c_k dW'_k."""

    @abstractmethod
    def edited(self, tensor: TensorToMerge, options: Options) -> Sequence[Tensor]:
        """The K edited task vectors dW'_k, float64; they do not depend on the coefficients' size.

        A rule whose edit depends on the sign of coefficients reads it from `tensor`. Where coefficients are
        still to be learned, give ones.
        """

    def learnable(self, options: Options) -> bool:
        """Whether the edit does not depend on the coefficients' size, so that they can be learned."""
        return True

    def combined(self, tensor: TensorToMerge, options: Options) -> Tensor:
        """W + sum_k c_k dW'_k."""
        return with_vectors(tensor, self.edited(tensor, options))


def with_vectors(tensor: TensorToMerge, vectors: Sequence[Tensor]) -> Tensor:
    """W + sum_k c_k dW'_k; for one expert at 1 whose vector is unchanged, its own weights.

    Args:
        tensor: W and the c_k.
        vectors: dW'_k, in the shape of W.
    """
    if tensor.coefficients == (1.0,) and torch.equal(vectors[0], tensor.deltas[0]):
        return tensor.experts[0]
    merged = tensor.base.clone()
    for vector, coefficient in zip(vectors, tensor.coefficients, strict=True):
        merged.add_(vector, alpha=coefficient)
    return merged


def in_slices(tensor: TensorToMerge, merge: Callable[[TensorToMerge], Tensor]) -> Tensor:
    """Merge a tensor some rows at a time, in order, so that little memory is needed beside it.

    Args:
        tensor: what is merged. One-dimensional tensors are merged whole.
        merge: for rows of the tensor.
    """
    if tensor.base.ndim < 2 or tensor.base.numel() <= SLICE:
        return merge(tensor)
    merged = torch.empty_like(tensor.base)
    height = max(1, SLICE // tensor.base[0].numel())
    for begin in range(0, len(tensor.base), height):
        rows = slice(begin, begin + height)
        merged[rows] = merge(tensor.rows(rows))
    return merged


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k w_k T_k, as a new tensor."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    return all(bool(torch.isfinite(part).all()) for part in torch.split(tensor.reshape(-1), SLICE))


def _refuse_not_finite(tensor: TensorToMerge) -> None:
    """Refuse weights that are not finite.

    Raises:
        CheckpointError: naming the first checkpoint that has such weights.
    """
    for number, weights in enumerate((tensor.base, *tensor.stored)):
        if not finite(weights):
            owner = f"expert {tensor.number(number - 1) + 1}" if number else "the base"
            raise CheckpointError(
                f"{tensor.name}: {owner} has weights that are not finite; give an intact checkpoint"
            )
