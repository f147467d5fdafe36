"""Edits of task vectors against plain loops from the papers, and PEFT where it agrees with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from tensors_to_merge import Array, drawn, edited, merged, to_merge

CLOSE = {"rtol": 1e-12, "atol": 1e-14}
SHAPE = (5, 8)


def peft(merge: Any, base: Array, experts: Sequence[Array], weights: Sequence[float], *more: Any) -> Array:
    """PEFT's own merge of task vectors, in float64."""
    vectors = [torch.as_tensor(expert - base) for expert in experts]
    return base + merge(vectors, torch.tensor(weights, dtype=torch.float64), *more).numpy()


def kept_of(delta: Array, begin: int, end: int) -> Array:
    """A vector with those numbers alone whose rank by magnitude is in a range."""
    order = sorted(range(delta.size), key=lambda i: abs(delta.flat[i]))
    kept = np.zeros_like(delta)
    for i in order[begin:end]:
        kept.flat[i] = delta.flat[i]
    return kept


def sign(value: float) -> int:
    return int(np.sign(value))


def elected(vectors: Sequence[Array], weights: Sequence[float], majority: str = "mass") -> Array:
    """TIES's second and third step: the elected sign, and the mean of those that have it."""
    total = np.zeros_like(vectors[0])
    for i in range(total.size):
        values = [vector.flat[i] for vector in vectors]
        votes = values if majority == "mass" else [sign(value) for value in values]
        agreed = [
            (w, v) for w, v in zip(weights, values, strict=True) if v and sign(v) == sign(math.fsum(votes))
        ]
        if agreed:
            total.flat[i] = sum(w * v for w, v in agreed) / len(agreed)
    return total


def test_task_arithmetic_is_the_weighted_sum_of_vectors() -> None:
    base, experts = drawn(SHAPE, 3)
    weights = (0.3, -1.0, 0.5)
    wanted = base.copy()
    for i in range(base.size):
        for weight, expert in zip(weights, experts, strict=True):
            wanted.flat[i] += weight * (expert.flat[i] - base.flat[i])
    tensor = to_merge(base, experts, weights)
    np.testing.assert_allclose(merged("task-arithmetic", tensor), wanted, **CLOSE)
    ours = peft(merge_utils.task_arithmetic, base, experts, weights)
    np.testing.assert_allclose(merged("task-arithmetic", tensor), ours, **CLOSE)
    halved = merged("task-arithmetic", tensor, lambda_=0.5)
    np.testing.assert_allclose(halved - base, (wanted - base) / 2, **CLOSE)
    divided = merged("task-arithmetic", tensor, normalize=True)
    np.testing.assert_allclose(divided - base, (wanted - base) / math.fsum(weights), rtol=1e-11)


@pytest.mark.filterwarnings("ignore:The density")
@pytest.mark.parametrize("majority", ["mass", "count"])
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_ties_is_the_papers_algorithm_and_pefts(majority: str, density: float) -> None:
    base, experts = drawn(SHAPE, 3)
    weights = (1.0, 0.4, 0.7)
    size = base.size
    trimmed = [kept_of(expert - base, size - round(density * size), size) for expert in experts]
    found = merged("ties", to_merge(base, experts, weights), density=density, majority=majority)
    np.testing.assert_allclose(found, base + elected(trimmed, weights, majority), **CLOSE)
    # PEFT takes the positive sign where counts are equal, the paper's sgn(0) none: only of three can none be.
    if majority == "mass" or density == 1:
        method = {"mass": "total", "count": "frequency"}[majority]
        theirs = peft(merge_utils.ties, base, experts, weights, density, method)
        np.testing.assert_allclose(found, theirs, **CLOSE)


def test_ties_elects_no_sign_where_masses_cancel() -> None:
    tensor = to_merge([0.0, 0.0], [[0.5, 1.0], [-0.5, 1.0]], (1, 1))
    np.testing.assert_array_equal(merged("ties", tensor, density=1), [0.0, 1.0])


def test_ties_counts_a_negated_expert_as_its_negative() -> None:
    base, experts = drawn(SHAPE, 3)
    vectors = [(expert - base) * s for expert, s in zip(experts, (1, -1, 1), strict=True)]
    trimmed = [kept_of(vector, 20, 40) for vector in vectors]
    found = merged("ties", to_merge(base, experts, (0.5, -0.8, 1.0)), density=0.5)
    np.testing.assert_allclose(found, base + elected(trimmed, (0.5, 0.8, 1.0)), **CLOSE)


@pytest.mark.parametrize("normalize", [True, False])
def test_ties_can_weigh_votes_and_mean_by_coefficient(normalize: bool) -> None:
    base, experts = drawn(SHAPE, 3)
    weights = (1.0, 0.2, 0.6)
    vectors = [kept_of(expert - base, 20, 40) for expert in experts]
    wanted = base.copy()
    for i in range(base.size):
        weighted = [w * v.flat[i] for w, v in zip(weights, vectors, strict=True)]
        agreed = [k for k, v in enumerate(weighted) if v and sign(v) == sign(math.fsum(weighted))]
        divisor = math.fsum(weights[k] for k in agreed) if normalize else 1
        if agreed:
            wanted.flat[i] += 0.9 * math.fsum(weighted[k] for k in agreed) / divisor
    found = merged("ties", to_merge(base, experts, weights), density=0.5, normalize=normalize, lambda_=0.9)
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_equal_magnitudes_are_kept_or_dropped_together() -> None:
    delta = [3.0, -1.0, 1.0, 0.5, 0.25, 2.0, -2.0, 0.1]
    tensor = to_merge(np.zeros(8), [delta], (1,))
    # Three of eight: 3, and both of 2 and -2; four: also 1 and -1.
    np.testing.assert_array_equal(merged("ties", tensor, density=3 / 8), [3, 0, 0, 0, 0, 2, -2, 0])
    np.testing.assert_array_equal(merged("ties", tensor, density=4 / 8), [3, -1, 1, 0, 0, 2, -2, 0])
    np.testing.assert_array_equal(
        merged("breadcrumbs", tensor, density=2 / 8, gamma=2 / 8), [0, -1, 1, 0, 0, 2, -2, 0]
    )


def test_at_least_one_number_of_each_vector_is_kept() -> None:
    tensor = to_merge(np.zeros(3), [[1.0, -3.0, 2.0]], (1,))
    np.testing.assert_array_equal(merged("ties", tensor, density=0.01), [0, -3, 0])
    np.testing.assert_array_equal(merged("breadcrumbs", tensor, density=0.01, gamma=0.4), [0, 0, 2])


@pytest.mark.filterwarnings("ignore:The density")
@pytest.mark.parametrize(("density", "gamma", "begin", "end"), [
    (0.5, 0.1, 16, 36), (0.9, 0.3, 0, 36), (0.15, 0.0, 34, 40), (1.0, 0.5, 0, 40), (0.3, 0.025, 27, 39),
])  # fmt: skip
def test_breadcrumbs_drops_the_smallest_and_the_largest(
    density: float, gamma: float, begin: int, end: int
) -> None:
    base, experts = drawn(SHAPE)
    weights = (0.3, 0.4)
    middle = [kept_of(expert - base, begin, end) for expert in experts]
    tensor = to_merge(base, experts, weights)
    found = merged("breadcrumbs", tensor, density=density, gamma=gamma)
    np.testing.assert_allclose(found, base + 0.3 * middle[0] + 0.4 * middle[1], **CLOSE)
    by_sign = merged("breadcrumbs", tensor, density=density, gamma=gamma, combine="ties")
    np.testing.assert_allclose(by_sign, base + elected(middle, weights), **CLOSE)
    if gamma == 0 or density == 1:
        theirs = peft(merge_utils.magnitude_prune, base, experts, weights, density)
        np.testing.assert_allclose(found, theirs, **CLOSE)


@pytest.mark.parametrize(("combine", "theirs"), [
    ("linear", merge_utils.dare_linear), ("ties", merge_utils.dare_ties),
])  # fmt: skip
def test_dare_is_pefts_for_the_same_draws(combine: str, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = drawn(SHAPE, 3)
    weights = (0.5, 1.0, 0.25)
    tensor = to_merge(base, experts, weights, seed=5)
    # What is kept can be read off the edited vectors, since no weight of a task vector is exactly 0.
    masks = [vector != 0 for vector in edited("dare", tensor, density=0.4)]
    draws = iter(torch.as_tensor(mask, dtype=torch.float64) for mask in masks)
    monkeypatch.setattr(torch, "bernoulli", lambda probabilities: next(draws))
    found = merged("dare", tensor, density=0.4, combine=combine)
    np.testing.assert_allclose(found, peft(theirs, base, experts, weights, 0.4), **CLOSE)
    kept = [np.where(mask, (e - base) / 0.4, 0.0) for mask, e in zip(masks, experts, strict=True)]
    total = elected(kept, weights) if combine == "ties" else np.tensordot(weights, kept, 1)
    np.testing.assert_allclose(found, base + total, **CLOSE)
    plain = edited("dare", tensor, density=0.4, rescale=False)
    for mask, expert, vector in zip(masks, experts, plain, strict=True):
        np.testing.assert_array_equal(vector, np.where(mask, expert - base, 0.0))


def seeds(method: str, base: Array, expert: Array, count: int, **options: Any) -> Array:
    """The edited vectors of many merges that differ in their seed."""
    return np.stack(
        [edited(method, to_merge(base, [expert], (1,), seed=s), **options)[0] for s in range(count)]
    )


def test_dare_keeps_each_weight_as_often_as_asked_and_the_vector_on_average() -> None:
    base, (expert,) = drawn((4, 5), 1)
    found, delta, density, count = seeds("dare", base, expert, 3000, density=0.3), expert - base, 0.3, 3000
    error = 5 * math.sqrt((1 - density) / density / count)
    np.testing.assert_array_less(np.abs(found.mean(axis=0) / delta - 1), error)
    np.testing.assert_array_less(np.abs((found != 0).mean(axis=0) - density), 5 * math.sqrt(0.21 / count))
    # Draws of different weights have nothing to do with each other.
    correlation = np.corrcoef((found != 0).reshape(count, -1), rowvar=False) - np.eye(20)
    assert np.abs(correlation).max() < 5 / math.sqrt(count)


def test_draws_of_experts_and_tensors_differ() -> None:
    base, (expert,) = drawn((30, 30), 1)
    first, second = edited("dare", to_merge(base, [expert, expert], (1, 1), seed=1))
    (third,) = edited("dare", to_merge(base, [expert], (1,), seed=2))
    for one, other in ((first, second), (first, third), (second, third)):
        assert 0.4 < ((one != 0) == (other != 0)).mean() < 0.6


def test_della_drops_by_rank_in_each_row_with_the_papers_probabilities() -> None:
    base, (expert,) = drawn((2, 5), 1)
    density, epsilon, count = 0.4, 0.5, 4000
    found, delta = seeds("della", base, expert, count, density=density, epsilon=epsilon), expert - base
    for i in range(2):
        order = sorted(range(5), key=lambda j: -abs(delta[i, j]))
        for rank, j in enumerate(order):
            # p_min = p - epsilon / 2 for the largest, and epsilon / n more with each rank.
            dropped = (1 - density) - epsilon / 2 + rank * epsilon / 5
            share = (found[:, i, j] == 0).mean()
            assert abs(share - dropped) < 5 * math.sqrt(dropped * (1 - dropped) / count)
            values = set(found[:, i, j]) - {0.0}
            assert len(values) == 1
            assert values.pop() == pytest.approx(delta[i, j] / (1 - dropped), rel=1e-12)


def test_della_takes_a_bias_as_one_row_and_a_convolution_by_output_channel() -> None:
    base, (expert,) = drawn((3, 2, 4), 1)
    whole = edited("della", to_merge(base, [expert], (1,), seed=3), epsilon=0.6)[0]
    flat = edited("della", to_merge(base.reshape(3, 8), [expert.reshape(3, 8)], (1,), seed=3), epsilon=0.6)[0]
    np.testing.assert_array_equal(whole.reshape(3, 8), flat)
    row = edited("della", to_merge(base.ravel(), [expert.ravel()], (1,), seed=3), epsilon=0.6)[0]
    one = edited("della", to_merge(base.reshape(1, -1), [expert.reshape(1, -1)], (1,), seed=3), epsilon=0.6)[
        0
    ]
    np.testing.assert_array_equal(row, one[0])


def test_della_elects_signs_and_can_do_without() -> None:
    base, experts = drawn(SHAPE, 3)
    tensor, weights = to_merge(base, experts, (1.0, 0.5, 0.3), seed=4), (1.0, 0.5, 0.3)
    vectors = edited("della", tensor, combine="linear")
    np.testing.assert_allclose(
        merged("della", tensor, combine="linear"), base + np.tensordot(weights, vectors, 1), **CLOSE
    )
    np.testing.assert_allclose(merged("della", tensor), base + elected(vectors, weights), **CLOSE)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock_is_the_papers_ratio(count: int) -> None:
    base, experts = drawn(SHAPE, count)
    shared = np.random.default_rng(9).normal(size=SHAPE) / 10
    experts = [expert + shared for expert in experts]
    vectors = [(expert - base).ravel() for expert in experts]
    cosines = []
    for i in range(count):
        for j in range(i):
            product = sum(x * y for x, y in zip(vectors[i], vectors[j], strict=True))
            cosines.append(
                product / math.dist(vectors[i], 0 * base.ravel()) / math.dist(vectors[j], 0 * base.ravel())
            )
    cosine = math.fsum(cosines) / len(cosines)
    assert cosine > 0
    ratio = count * cosine / (1 + (count - 1) * cosine)
    wanted = ratio * np.mean(experts, axis=0) + (1 - ratio) * base
    found = merged("model-stock", to_merge(base, experts, [1] * count))
    np.testing.assert_allclose(found, wanted, rtol=1e-11)
    halves = merged("model-stock", to_merge(base, experts, [0.5] * count))
    np.testing.assert_allclose(halves - base, (wanted - base) / 2, rtol=1e-10)


def test_model_stock_by_row_is_model_stock_of_each_row() -> None:
    base, experts = drawn((4, 3, 2))
    experts[1] = experts[0] + 0.05
    found = merged("model-stock", to_merge(base, experts, (1, 1)), filter_wise=True)
    for i in range(4):
        row = merged("model-stock", to_merge(base[i], [expert[i] for expert in experts], (1, 1)))
        np.testing.assert_allclose(found[i], row, rtol=1e-12)
    bias = to_merge(base.ravel(), [expert.ravel() for expert in experts], (1, 1))
    np.testing.assert_array_equal(merged("model-stock", bias, filter_wise=True), merged("model-stock", bias))


def test_model_stock_stays_at_the_base_for_vectors_that_do_not_agree() -> None:
    base, vector = np.array([1.0, 2.0]), np.array([1.0, 0.5])
    opposite = to_merge(base, [base + vector, base - 0.9 * vector], (1, 1))
    np.testing.assert_array_equal(merged("model-stock", opposite), base)
    unchanged = to_merge(base, [base + vector, base], (1, 1))
    np.testing.assert_array_equal(merged("model-stock", unchanged), base)
    same = to_merge(base, [base + vector] * 2, (1, 1))
    np.testing.assert_allclose(merged("model-stock", same), base + vector, rtol=1e-15)
