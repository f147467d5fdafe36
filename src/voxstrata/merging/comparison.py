"""Task vectors beside each other, from files, a tensor at a time: size, direction, signs, rank per layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from voxstrata.backbone.finite import require_finite
from voxstrata.backbone.kinship import Kinship
from voxstrata.merging.parents import Parent
from voxstrata.merging.parts import MergeGroups, chosen_part
from voxstrata.merging.request import vector_names
from voxstrata.merging.template import Slot, template_of

#: Bits that number formats round to, as a share of a value.
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-9, "float32": 2.0**-24, "float64": 2.0**-53}
#: Share of a vector's squared norm that the effective rank holds.
ENERGY = 0.99


@dataclass(frozen=True)
class VectorLayer:
    """One vector in one group of tensors.

    Args:
        norm: Euclidean norm of the difference from the base.
        tensors: how many there are.
        zero: how many of them are zero.
        rank: the largest numerical rank of a matrix: singular values above what rounding alone gives.
        rank_99: the largest number of singular values that hold 99 % of a matrix's squared norm.
        full_rank: of the largest matrix; 0 where there is none.
    """

    norm: float
    tensors: int
    zero: int
    rank: int
    rank_99: int
    full_rank: int


@dataclass(frozen=True)
class VectorPair:
    """Two vectors in one group of tensors.

    Args:
        cosine: of the angle between them; None where one is zero.
        same_sign: share of the entries, where both are not zero, that have the same sign; None without any.
    """

    cosine: float | None
    same_sign: float | None


@dataclass(frozen=True)
class VectorComparison:
    """What the vectors of several experts have in common.

    Args:
        base: as it was given.
        vectors: name -> checkpoint.
        labels: names of the groups of tensors; the last, "all", stands for all together.
        layers: name -> one entry per label.
        pairs: two names -> one entry per label.
        kinship: name -> median correlation of the expert's transformer matrices with the base's.
    """

    base: str
    vectors: Mapping[str, str]
    labels: tuple[str, ...]
    layers: Mapping[str, tuple[VectorLayer, ...]]
    pairs: Mapping[tuple[str, str], tuple[VectorPair, ...]]
    kinship: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "base": self.base,
            "vectors": dict(self.vectors),
            "layers": list(self.labels),
            "correlation": dict(self.kinship),
            "by_vector": {name: [asdict(one) for one in found] for name, found in self.layers.items()},
            "by_pair": [
                {"vectors": list(names), "layers": [asdict(one) for one in found]}
                for names, found in self.pairs.items()
            ],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings, and a row per group."""
        headings = ["layer"]
        for name in self.layers:
            headings += [f"{name} norm", f"{name} zero", f"{name} rank", f"{name} 99 %"]
        for one, other in self.pairs:
            headings += [f"cos {one} {other}", f"sign {one} {other}"]
        rows = []
        for index, label in enumerate(self.labels):
            row = [label]
            for found in self.layers.values():
                layer = found[index]
                rank = (
                    [f"{layer.rank}/{layer.full_rank}", str(layer.rank_99)] if layer.full_rank else ["-"] * 2
                )
                row += [f"{layer.norm:.4g}", f"{layer.zero}/{layer.tensors}", *rank]
            for pairs in self.pairs.values():
                row += [_shown(pairs[index].cosine), _shown(pairs[index].same_sign)]
            rows.append(row)
        return headings, rows


@dataclass
class _Tally:
    """Sums over the tensors of one group."""

    count: int
    products: Tensor = field(init=False)
    both: Tensor = field(init=False)
    same: Tensor = field(init=False)
    tensors: int = 0
    zero: list[int] = field(init=False)
    ranks: list[list[tuple[int, int, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.products, self.both, self.same = (
            torch.zeros(self.count, self.count, dtype=torch.float64) for _ in range(3)
        )
        self.zero = [0] * self.count
        self.ranks = [[] for _ in range(self.count)]

    def add(self, deltas: Sequence[Tensor], ranks: Sequence[tuple[int, int, int]]) -> None:
        """Takes one tensor of each vector into account."""
        self.tensors += 1
        for k, delta in enumerate(deltas):
            self.products[k, k] += torch.sum(delta * delta)
            self.zero[k] += not bool(delta.any())
        for k, rank in enumerate(ranks):
            self.ranks[k].append(rank)
        for j, k in combinations(range(len(deltas)), 2):
            product = deltas[j] * deltas[k]
            self.products[j, k] += product.sum()
            self.both[j, k] += ((deltas[j] != 0) & (deltas[k] != 0)).sum()
            self.same[j, k] += ((deltas[j] > 0) & (deltas[k] > 0) | (deltas[j] < 0) & (deltas[k] < 0)).sum()

    def layer(self, k: int) -> VectorLayer:
        """What was found of one vector."""
        ranks = self.ranks[k] or [(0, 0, 0)]
        return VectorLayer(
            math.sqrt(float(self.products[k, k])),
            self.tensors,
            self.zero[k],
            max(rank for rank, _, _ in ranks),
            max(rank for _, rank, _ in ranks),
            max(full for _, _, full in ranks),
        )

    def pair(self, j: int, k: int) -> VectorPair:
        """What was found of two vectors."""
        scale = math.sqrt(float(self.products[j, j] * self.products[k, k]))
        both = float(self.both[j, k])
        return VectorPair(
            float(self.products[j, k]) / scale if scale else None,
            float(self.same[j, k]) / both if both else None,
        )


def compare_vectors(
    base: str,
    experts: Sequence[str],
    *,
    part: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> VectorComparison:
    """Compares what several experts changed in their base.

    Args:
        base: what they were fine-tuned from: a folder or file, packaged name, run or hub id.
        experts: one or more of the same kinds.
        part: encoder, decoder or all; None: all that all hold.
        progress: called with tensors done, tensors in all, and the tensor that is next.

    Raises:
        VoxstrataError: if one cannot be read, or does not fit the base.
    """
    origin = Parent.open("base", base)
    template = template_of(origin)
    family = origin.checkpoint.family
    names = vector_names(experts)
    parents = [Parent.open(name, place, family) for name, place in zip(names, experts, strict=True)]
    chosen = chosen_part(
        part, origin.has_decoder, [one.has_decoder or one.checkpoint.partial for one in parents]
    )
    if chosen == "encoder":
        parents = [one.encoder_alone() for one in parents]
    for one in parents:
        one.require_fit(origin, decoder=chosen != "encoder")
    groups = MergeGroups.of(family, [slot.name for slot in template.slots if slot.name], chosen)
    labels = (*groups.labels, "all")
    tallies = [_Tally(len(parents)) for _ in labels]
    # A copy that is stored twice would count twice.
    slots = [
        (slot, group)
        for slot in template.slots
        if slot.name and slot.name not in family.tied and slot.dtype.is_floating_point
        if (group := groups.index(slot.name)) is not None
    ]
    kinships = [Kinship() for _ in parents]
    for done, (slot, group) in enumerate(slots):
        if progress is not None:
            progress(done, len(slots), slot.key)
        deltas, ranks = _looked_at(slot, parents, kinships)
        for tally in (tallies[group], tallies[-1]):
            tally.add(deltas, ranks)
    return VectorComparison(
        base,
        dict(zip(names, experts, strict=True)),
        labels,
        {name: tuple(tally.layer(k) for tally in tallies) for k, name in enumerate(names)},
        {
            (names[j], names[k]): tuple(tally.pair(j, k) for tally in tallies)
            for j, k in combinations(range(len(names)), 2)
        },
        {name: kinship.value for name, kinship in zip(names, kinships, strict=True)},
    )


def ranks_of(delta: Tensor, noise: float) -> tuple[int, int, int]:
    """Numerical rank of a matrix, the singular values that hold 99 % of it, and its full rank.

    Args:
        delta: [out, in], float64.
        noise: singular value that rounding alone may give.
    """
    full = min(delta.shape)
    if not bool(delta.any()):
        return 0, 0, full
    wide = delta.shape[0] < delta.shape[1]
    if full <= 256:
        values = torch.linalg.svdvals(delta)
    else:
        # By the smaller Gram matrix, in a fifth of the time; exact to 1e-8 of the largest.
        gram = delta @ delta.T if wide else delta.T @ delta
        values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()
        noise = max(noise, 1e-7 * float(values[0]))
    energy = (values**2).cumsum(0)
    held = int((energy < ENERGY * energy[-1]).sum()) + 1
    return int((values > noise).sum()), held, full


def _looked_at(
    slot: Slot, parents: Sequence[Parent], kinships: Sequence[Kinship]
) -> tuple[list[Tensor], list[tuple[int, int, int]]]:
    """A tensor's difference in each expert, and the ranks of matrices; `kinships` take it into account."""
    stored = slot.read()
    require_finite([(slot.key, stored)], slot.key)
    base = stored.to(torch.promote_types(stored.dtype, torch.float32))
    deltas = [
        parent.checkpoint.fine_tuned(slot.name or "", base).double() - base.double() for parent in parents
    ]
    for parent, kinship, delta in zip(parents, kinships, deltas, strict=True):
        if slot.name in parent.checkpoint.stored:
            kinship.add(slot.name or "", base, base + delta)
    if base.ndim != 2 or min(base.shape) < 2:
        return deltas, []
    root = math.sqrt(base.shape[0]) + math.sqrt(base.shape[1])
    spread = float(base.double().square().mean().sqrt())
    ranks = []
    for parent, delta in zip(parents, deltas, strict=True):
        kinds = parent.stored_formats(slot.name or "")
        step = max(_ROUNDING.get(kind, 0.0) for kind in (*kinds, "float32"))
        ranks.append(ranks_of(delta, step * root * (spread + float(delta.square().mean().sqrt()))))
    return deltas, ranks


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
