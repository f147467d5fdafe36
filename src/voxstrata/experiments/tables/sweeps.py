"""A run in several settings: the grid of a table's run, whose best setting on dev a row shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from voxstrata.recipes.reading import merged_values

#: Dotted key of a recipe -> the values that are tried.
Grid = Mapping[str, Sequence[Any]]

#: Metrics of which less is better.
ERRORS = ("wer", "cer")


def grid_points(grid: Grid) -> list[dict[str, Any]]:
    """Every combination of a grid's values: dotted key -> value; one empty point for an empty grid.

    >>> grid_points({"rate": [1, 2], "weight": [3]})
    [{'rate': 1, 'weight': 3}, {'rate': 2, 'weight': 3}]
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def settings(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as it is laid over a recipe.

    >>> settings({"rates.encoder": 1, "rates.head": 2})
    {'rates': {'encoder': 1, 'head': 2}}
    """
    values: dict[str, Any] = {}
    for key, value in point.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merged_values(values, value)
    return values


def told(point: Mapping[str, Any]) -> str:
    """A point for the eye.

    >>> told({"asr_weight": 0.3, "rates.encoder": 1e-05})
    'asr_weight 0.3, rates.encoder 1e-05'
    """
    return ", ".join(f"{key} {value}" for key, value in point.items())


def best(scores: Sequence[float], metric: str) -> int:
    """Index of the best score of a metric, the first of equal ones.

    >>> best([0.2, 0.4, 0.4], "uar"), best([0.2, 0.4, 0.4], "wer")
    (1, 0)
    """
    sign = -1 if metric in ERRORS else 1
    return max(range(len(scores)), key=lambda index: (sign * scores[index], -index))
