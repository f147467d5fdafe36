"""What a task vector loses at each rank, by layer, before it is compressed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from voxstrata.methods.adaltm.compressed import largest_useful_rank
from voxstrata.methods.adaltm.factors import Spectrum
from voxstrata.methods.adaltm.task_vector import TaskVector


@dataclass(frozen=True)
class RankTable:
    """One vector at several ranks.

    Args:
        source: where the expert lay.
        ranks: of its matrices.
        errors: per rank, for groups 0..L and for all together: the norm of what is lost over that of the
            difference; 0 of a zero one.
        nbytes: per rank, what the compressed vector takes in float32.
        dense_nbytes: what the whole vector takes.
    """

    source: str
    ranks: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]
    nbytes: tuple[int, ...]
    dense_nbytes: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON; `energy` is the share of the squared norm that is kept."""
        return {
            "source": self.source,
            "megabytes": self.dense_nbytes / 1e6,
            "ranks": [
                {
                    "rank": rank,
                    "megabytes": size / 1e6,
                    "relative_error": list(errors[:-1]),
                    "energy": [1 - error**2 for error in errors[:-1]],
                    "relative_error_of_all": errors[-1],
                }
                for rank, errors, size in zip(self.ranks, self.errors, self.nbytes, strict=True)
            ],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings, a row per layer with the relative errors, and rows for all together and for the size."""
        layers = len(self.errors[0]) - 1
        rows = [
            [
                str(layer) if layer < layers else "all",
                *(f"{errors[layer]:.3g}" for errors in self.errors),
                "0",
            ]
            for layer in range(layers + 1)
        ]
        sizes = [*self.nbytes, self.dense_nbytes]
        rows.append(["MB", *(f"{size / 1e6:.3g}" for size in sizes)])
        return ["layer", *(f"rank {rank}" for rank in self.ranks), "whole"], rows


def rank_table(
    vector: TaskVector, ranks: Sequence[int], progress: Callable[[int, int, str], None] | None = None
) -> RankTable:
    """The errors that `TaskVector.compress` makes at several ranks, from one decomposition of each matrix.

    Args:
        vector: of an expert.
        ranks: each at least 1.
        progress: called with tensors done, tensors in all, and the tensor that is next.
    """
    lost = [[0.0] * len(ranks) for _ in vector.groups]
    total = [0.0] * len(lost)
    held, dense, done = [0] * len(ranks), 0, 0
    for group, names in enumerate(vector.groups):
        for name in names:
            if progress is not None:
                progress(done, len(vector.deltas), name)
            done += 1
            delta = vector.deltas[name]
            own = vector.factors.get(name)
            most = largest_useful_rank(tuple(delta.shape)) if delta.ndim == 2 or own is not None else 0
            energies = Spectrum.of(delta.flatten(1)).energies if most and bool(delta.any()) else None
            for column, rank in enumerate(ranks):
                kept = rank if own is None else min(rank, own.rank)
                if energies is None or (own is None and kept > most):
                    held[column] += delta.numel()
                    continue
                held[column] += kept * (delta.shape[0] + delta[0].numel())
                if own is None or kept < own.rank:
                    lost[group][column] += float(energies[kept:].sum())
            total[group] += float(delta.double().square().sum())
            dense += delta.numel()
    lost.append([sum(column) for column in zip(*lost, strict=True)])
    total.append(sum(total))
    errors = tuple(
        tuple(
            math.sqrt(part[column] / whole) if whole else 0.0 for part, whole in zip(lost, total, strict=True)
        )
        for column in range(len(ranks))
    )
    return RankTable(vector.source, tuple(ranks), errors, tuple(4 * n for n in held), 4 * dense)
