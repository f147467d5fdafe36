"""Differences as products of two thin matrices: dW = U V, with U [out, r] and V [r, in].

A LoRA fine-tune has them by its nature (Hu et al. 2021, arXiv 2106.09685, equation 3). Of any other matrix
the best ones of a rank come from its singular value decomposition (Eckart and Young 1936).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: Squared singular values below this share of the largest are those of a matrix that lacks the direction.
_ABSENT = 1e-15


@dataclass(frozen=True)
class Factors:
    """A difference U V of one tensor.

    Args:
        left: U [out, r].
        right: V [r, in], or [r, in, k] of a convolution.
    """

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """The number r of directions."""
        return len(self.right)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the difference."""
        return (len(self.left), *self.right.shape[1:])

    @property
    def numel(self) -> int:
        """Numbers that are held."""
        return self.left.numel() + self.right.numel()

    def product(self) -> Tensor:
        """The difference, in the factors' precision, or in float32 where that is lower."""
        exact = torch.promote_types(self.left.dtype, torch.float32)
        return (self.left.to(exact) @ self.right.to(exact).flatten(1)).view(self.shape)

    def applied(self, convert: Callable[[Tensor], Tensor]) -> Factors:
        """The factors moved or converted."""
        return Factors(convert(self.left), convert(self.right))

    def add_to(self, weight: Tensor, coefficient: float) -> None:
        """Adds c U V to a tensor without gaps, in place, and without a temporary of its size."""
        left, right = self.left.to(weight.dtype), self.right.to(weight.dtype)
        weight.view(len(left), -1).addmm_(left, right.flatten(1), alpha=coefficient)

    def inner_product(self, gradient: Tensor) -> Tensor:
        """<G, U V> = <U^T G, V>, a scalar [] in float64.

        Args:
            gradient: G, in the difference's shape.
        """
        exact = torch.promote_types(gradient.dtype, torch.float32)
        projected = self.left.to(exact).T @ gradient.to(exact).flatten(1)
        return (projected * self.right.to(exact).flatten(1)).sum(dtype=torch.float64)

    def truncated(self, rank: int) -> Factors:
        """The nearest factors of a smaller rank, from a decomposition of the thin matrices alone."""
        left, upper = torch.linalg.qr(self.left.double())
        right, lower = torch.linalg.qr(self.right.double().flatten(1).T)
        u, values, v = torch.linalg.svd(upper @ lower.T)
        kept = self.left.dtype
        thin = (v[:rank] @ right.T).view(-1, *self.right.shape[1:])
        return Factors((left @ (u[:, :rank] * values[:rank])).to(kept), thin.to(kept))


#: A difference as it is held.
Change = Tensor | Factors


@dataclass(frozen=True)
class Spectrum:
    """The right singular vectors of a matrix, from the smaller one of its Gram matrices, in float64.

    Args:
        matrix: D [out, in], float64.
        energies: squared singular values, descending.
        vectors: columns of unit length in that order, of the smaller side.
        wide: whether the smaller side is `out`.
    """

    matrix: Tensor
    energies: Tensor
    vectors: Tensor
    wide: bool

    @classmethod
    def of(cls, delta: Tensor) -> Spectrum:
        """The spectrum of a matrix [out, in]."""
        matrix = delta.double()
        wide = matrix.shape[0] < matrix.shape[1]
        energies, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
        return cls(matrix, energies.flip(0).clamp(min=0), vectors.flip(1), wide)

    def rank_of(self, energy: float) -> int:
        """The smallest rank that keeps this share of the squared norm, without directions that are absent."""
        sums = self.energies.cumsum(0)
        enough = int((sums < energy * sums[-1]).sum()) + 1
        return min(enough, int((self.energies > _ABSENT * self.energies[0]).sum()))

    def kept_energy(self, rank: int) -> float:
        """Share of the squared norm that a rank keeps, in [0, 1]; of zero all of it."""
        total = float(self.energies.sum())
        return float(self.energies[:rank].sum()) / total if total else 1.0

    def factors(self, rank: int) -> Factors:
        """The nearest factors of a rank, float32: the matrix projected onto its first singular vectors."""
        basis = self.vectors[:, :rank]
        pair = (basis, basis.T @ self.matrix) if self.wide else (self.matrix @ basis, basis.T)
        return Factors(pair[0].float(), pair[1].float().contiguous())


class FactoredDeltas(Mapping[str, Tensor]):
    """Differences by name, some held as factors: those are multiplied out when they are asked for.

    Args:
        dense: name -> difference.
        factors: name -> its factors; other names than those of `dense`.
    """

    def __init__(self, dense: Mapping[str, Tensor], factors: Mapping[str, Factors]) -> None:
        self.dense = dense
        self.factors = factors

    def __getitem__(self, name: str) -> Tensor:
        return self.factors[name].product() if name in self.factors else self.dense[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.dense
        yield from self.factors

    def __len__(self) -> int:
        return len(self.dense) + len(self.factors)

    def held(self, name: str) -> Change:
        """A difference as it is held."""
        return self.factors[name] if name in self.factors else self.dense[name]


def multiplied_out(change: Change) -> Tensor:
    """A difference as one tensor."""
    return change.product() if isinstance(change, Factors) else change
