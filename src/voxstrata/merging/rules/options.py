"""Options that several merge rules share. Names are mergekit's where they mean the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from voxstrata.config.problems import shown
from voxstrata.config.strict import Coefficient, Strict
from voxstrata.merging.rules.rule import TensorToMerge


def _numbers(value: Any) -> tuple[float, ...]:
    """A number for all experts, or a list with one of each, as a tuple.

    Raises:
        ValueError: if it is neither.
    """
    values = value if isinstance(value, list | tuple) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            raise ValueError(
                f"found {shown(value)}; a finite number is needed, or a list with one per expert"
            )
    if not values:
        raise ValueError("found an empty list; a number is needed, or a list with one per expert")
    return tuple(float(each) for each in values)


def _densities(value: Any) -> tuple[float, ...]:
    """Shares of weights that are kept.

    Raises:
        ValueError: if one is not above 0 and at most 1.
    """
    values = _numbers(value)
    if not all(0 < each <= 1 for each in values):
        raise ValueError(f"found {shown(value)}; more than 0 and at most 1 is needed")
    return values


def _shares(value: Any) -> tuple[float, ...]:
    """Shares that may be 0.

    Raises:
        ValueError: if one is not at least 0 and below 1.
    """
    values = _numbers(value)
    if not all(0 <= each < 1 for each in values):
        raise ValueError(f"found {shown(value)}; at least 0 and less than 1 is needed")
    return values


#: One value for all experts, or one of each.
Densities = Annotated[tuple[float, ...], BeforeValidator(_densities)]
Shares = Annotated[tuple[float, ...], BeforeValidator(_shares)]


def of_expert(values: Sequence[float], tensor: TensorToMerge, expert: int) -> float:
    """An expert's value of such an option.

    Args:
        values: one for all experts of the merge, or one of each.
        tensor: what is merged.
        expert: k among the experts of this tensor, from 0.
    """
    return values[0] if len(values) == 1 else values[tensor.number(expert)]


class ScaledOptions(Strict):
    """Factors on sums of task vectors.

    Args:
        factor: `lambda`, a factor of all coefficients.
        normalize: divide the sum of task vectors by the sum of the coefficients. Left out, it is as in the
            method's paper. For signs that are elected see `SparseOptions`.
    """

    model_config = ConfigDict(populate_by_name=True)

    factor: Coefficient = Field(1.0, alias="lambda")
    normalize: bool | None = None
