"""Bootstrap intervals from sums: every metric here is a function of counts added over clips.

A bootstrap sample is a weight for each unit (how often it was drawn): its counts are weights times a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from confidence_intervals import get_bootstrap_indices, get_conf_int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from voxstrata.errors import PredictionsError

Array = NDArray[np.float64]

#: Draws of clips are kept up to so many numbers (10 MB): each row of a table draws the same ones.
_KEPT_DRAWS = 5_000_000

#: Quantiles of the standard normal: 5 % two-sided, and 80 % power.
SIGNIFICANCE, POWER = 1.96, 0.84


def toolkit_weights(units: int, resamples: int) -> Iterator[Array]:
    """Draws clips one by one, exactly as `confidence_intervals.evaluate_with_conf_int` does: seeds 0, 1, ...

    Ferrer and Riera, Confidence Intervals for evaluation in machine learning (the toolkit of AdaLTM).

    Yields:
        `[units]`, `resamples` times.
    """
    if units * resamples > _KEPT_DRAWS:
        yield from (_weights(get_bootstrap_indices(units, None, seed), units) for seed in range(resamples))
    else:
        yield from map(np.float64, _toolkit_draws(units, resamples))


@lru_cache(maxsize=8)
def _toolkit_draws(units: int, resamples: int) -> NDArray[np.uint16]:
    """How often each clip is drawn, `[resamples, units]`: the same for all systems on the same clips."""
    draws = (_weights(get_bootstrap_indices(units, None, seed), units) for seed in range(resamples))
    return np.stack([weights.astype(np.uint16) for weights in draws])


def check_resampling(resamples: int, seed: int) -> None:
    """Checks the options of a bootstrap.

    Raises:
        PredictionsError: if they give no interval.
    """
    if resamples < 2:
        raise PredictionsError(f"an interval needs at least 2 resamples; found {resamples}")
    if seed < 0:
        raise PredictionsError(f"the seed of a resampling is {seed}; give a whole number from 0 on")


def cluster_weights(units: int, resamples: int, seed: int) -> Iterator[Array]:
    """Draws whole units (speakers) with replacement.

    Yields:
        `[units]`, `resamples` times.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield _weights(generator.integers(units, size=units), units)


def by_unit(table: Any, units: Sequence[str]) -> Any:
    """Adds the rows of each unit, in the order of the units' names.

    Args:
        table: sparse counts `[clips, K]`.
        units: name of each clip's unit (its speaker).

    Returns:
        Sparse counts `[U, K]`.
    """
    names, index = np.unique(np.array(units), return_inverse=True)
    clips = np.arange(len(index))
    members = csr_array((np.ones(len(index)), (index, clips)), shape=(len(names), len(index)))
    return members @ table


def by_clip(table: Any, clips: Sequence[str]) -> Any:
    """Adds the rows of each clip, where any has several (answers of several models): it is one draw.

    Args:
        table: sparse counts `[N, K]`.
        clips: name of each row's clip.

    Returns:
        Sparse counts, a row a clip; in the table's own order where no clip has two.
    """
    return table if len(set(clips)) == len(clips) else by_unit(table, clips)


def resampled_sums(table: Any, weights: Iterable[Array]) -> Array:
    """Counts of every bootstrap sample.

    Args:
        table: sparse counts `[U, K]`.
        weights: `[U]` for each of R samples.

    Returns:
        `[R, K]`.
    """
    transposed = csr_array(table.T)
    return np.stack([transposed @ weight for weight in weights])


def interval(values: Array, *, alpha: float = 5) -> tuple[float, float]:
    """Percentile interval, as the toolkit takes it.

    Args:
        values: metric of R bootstrap samples `[R]`; samples where it is undefined (NaN) are passed over.
        alpha: percent left outside.

    >>> interval(np.arange(101.0))
    (2.5, 97.5)
    """
    low, high = get_conf_int(values[np.isfinite(values)], alpha)
    return float(low), float(high)


def smallest_difference(values: Array) -> float:
    """The smallest true difference that would be shown with 80 % power at 5 %.

    Args:
        values: bootstrapped differences `[R]`.
    """
    return (SIGNIFICANCE + POWER) * float(np.nanstd(values, ddof=1))


#: A metric of counts: `[..., K]` -> `[...]`.
Measure = Callable[[Array], Array]


def _weights(drawn: NDArray[np.int64], units: int) -> Array:
    return np.bincount(drawn, minlength=units).astype(np.float64)
