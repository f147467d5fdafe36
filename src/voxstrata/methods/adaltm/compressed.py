"""Task vectors in less memory: each matrix of a difference as the product of two thin ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from voxstrata.backbone.groups import partition
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.factors import Change, FactoredDeltas, Factors, Spectrum
from voxstrata.methods.adaltm.task_vector import LOW_RANK_FORMAT, TaskVector

_LEFT, _RIGHT = "left:", "right:"


@dataclass(frozen=True)
class Compression:
    """How many directions of each matrix are kept; one of the two.

    Args:
        rank: at most so many.
        energy: the fewest that keep this share of a matrix's squared norm, above 0 and at most 1.

    Raises:
        CheckpointError: if both or neither is given, or one is out of its range.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.energy is None):
            found = "neither" if self.rank is None else "both"
            raise CheckpointError(f"compress takes rank or energy; found {found}: give one of them")
        whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        if self.rank is not None and not (whole and self.rank >= 1):
            raise CheckpointError(f"rank is {self.rank}; a whole number from 1 is needed, e.g. rank=16")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise CheckpointError(f"energy is {self.energy}; more than 0 and at most 1 is needed, e.g. 0.95")

    def of_adapter(self, factors: Factors) -> Factors:
        """An adapter's own factors: they are exact, and small already; cut only to a smaller rank."""
        fits = self.rank is None or factors.rank <= self.rank
        return factors if fits else factors.truncated(self.rank or 1)

    def of_matrix(self, delta: Tensor) -> Factors | None:
        """The factors of a matrix; None where the matrix itself takes no more memory."""
        most = largest_useful_rank(tuple(delta.shape))
        if most < 1 or (self.energy is None and (self.rank or 1) > most):
            return None
        spectrum = Spectrum.of(delta)
        rank = min(self.rank or most + 1, spectrum.rank_of(1.0 if self.energy is None else self.energy))
        return spectrum.factors(rank) if rank <= most else None


def largest_useful_rank(shape: tuple[int, ...]) -> int:
    """The largest rank at which factors take less memory than their product [out, in, ...]; 0: none."""
    whole = math.prod(shape)
    return (whole - 1) // (shape[0] + whole // shape[0])


@dataclass(frozen=True)
class CompressedVector(TaskVector):
    """A task vector whose matrices are held as factors; made by `TaskVector.compress`.

    `MergedBackbone` takes it as any other vector. Its `deltas` are multiplied out when they are asked for.

    Args:
        errors: per group 0..L, the norm of what was lost over that of the difference; 0 of a zero one.
    """

    errors: tuple[float, ...] = ()

    def __repr__(self) -> str:
        """One line: where it comes from, its ranks, its size, and how much of the difference is lost."""
        ranks = sorted(factors.rank for factors in self.factored.factors.values())
        spread = f"{ranks[0]}-{ranks[-1]}" if ranks and ranks[0] != ranks[-1] else f"{ranks[0]}" * bool(ranks)
        lost = f"{max(self.errors):.2g}" if self.errors else "not known"
        return (
            f"CompressedVector(source={self.short_source()!r}, tensors={len(self.deltas)}, "
            f"factors={len(ranks)} of rank {spread or 'none'}, "
            f"size={self.nbytes / 1e6:.3g} MB of {self.dense_nbytes / 1e6:.3g} MB, "
            f"largest relative error of a layer={lost})"
        )

    @property
    def factored(self) -> FactoredDeltas:
        """The differences as they are held."""
        assert isinstance(self.deltas, FactoredDeltas)
        return self.deltas

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        factors = self.factored.factors.values()
        parts = [tensor for pair in factors for tensor in (pair.left, pair.right)]
        return sum(tensor.nbytes for tensor in (*parts, *self.factored.dense.values()))

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the differences multiplied out."""
        factors = self.factored.factors.values()
        products = sum(math.prod(pair.shape) * pair.left.element_size() for pair in factors)
        return products + sum(tensor.nbytes for tensor in self.factored.dense.values())

    def expanded(self) -> TaskVector:
        """The same differences, multiplied out."""
        return TaskVector(
            dict(self.deltas),
            self.base_fingerprint,
            self.source,
            self.left_out,
            self.kinship,
            self.note,
        )

    def _stored(self, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
        def stored(tensor: Tensor) -> Tensor:
            return tensor.detach().cpu().to(dtype)

        dense = {name: stored(delta) for name, delta in self.factored.dense.items()}
        factors = {name: pair.applied(stored) for name, pair in self.factored.factors.items()}
        replace(self, deltas=FactoredDeltas(dense, factors))  # refuses what overflowed
        for name, pair in factors.items():
            dense |= {f"{_LEFT}{name}": pair.left, f"{_RIGHT}{name}": pair.right}
        return dense, {"format": LOW_RANK_FORMAT, "errors": json.dumps(self.errors)}


def compressed(vector: TaskVector, how: Compression) -> CompressedVector:
    """A vector with its matrices as factors; an adapter's own where it has them, else by decomposition.

    Biases, norms and convolutions stay as they are, and matrices that would take no less memory.

    Args:
        vector: dense.
        how: rank or energy.
    """
    dense: dict[str, Tensor] = {}
    factors: dict[str, Factors] = {}
    errors = []
    for names in partition(vector.deltas):
        lost = total = 0.0
        for name in names:
            delta = vector.deltas[name]
            found = None
            if name in vector.factors:
                found = how.of_adapter(vector.factors[name])
            elif delta.ndim == 2 and bool(delta.any()):
                found = how.of_matrix(delta)
            if found is None:
                dense[name] = delta
            else:
                factors[name] = found
                left, right = found.left.double(), found.right.double().flatten(1)
                lost += float((delta.double().flatten(1) - left @ right).square().sum())
            total += float(delta.double().square().sum())
        errors.append(math.sqrt(lost / total) if total else 0.0)
    return CompressedVector(
        FactoredDeltas(dense, factors),
        vector.base_fingerprint,
        vector.source,
        vector.left_out,
        vector.kinship,
        vector.note,
        errors=tuple(errors),
    )


def vector_of(changes: Mapping[str, Change], base_fingerprint: str, source: str) -> TaskVector:
    """A vector of tensors and factors by name; compressed if there are factors."""
    dense = {name: one for name, one in changes.items() if isinstance(one, Tensor)}
    factors = {name: one for name, one in changes.items() if isinstance(one, Factors)}
    if not factors:
        return TaskVector(dense, base_fingerprint, source)
    return CompressedVector(FactoredDeltas(dense, factors), base_fingerprint, source)


def read_factors(tensors: Mapping[str, Tensor], path: str | Path) -> FactoredDeltas:
    """Differences and factors from the tensors of a file that `CompressedVector.save` wrote.

    Raises:
        CheckpointError: if factors stand alone, do not fit each other, or stand beside their product.
    """
    dense = {name: tensor for name, tensor in tensors.items() if not name.startswith((_LEFT, _RIGHT))}
    names = {name.removeprefix(_LEFT).removeprefix(_RIGHT) for name in tensors if name not in dense}
    factors = {}
    for name in sorted(names):
        left, right = tensors.get(f"{_LEFT}{name}"), tensors.get(f"{_RIGHT}{name}")
        fit = left is not None and right is not None and left.ndim == 2 and right.ndim in (2, 3)
        if left is None or right is None or not fit or left.shape[1] != len(right) or name in dense:
            raise CheckpointError(
                f"{path} has no two factors of {name} that fit each other; compress the vector again"
            )
        factors[name] = Factors(left, right)
    return FactoredDeltas(dense, factors)
