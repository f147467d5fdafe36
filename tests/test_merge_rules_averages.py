"""Averages of weights against plain loops, scipy's arcs and regression."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial import geometric_slerp

from tensors_to_merge import Array, drawn, merged, to_merge

CLOSE = {"rtol": 1e-12, "atol": 1e-14}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("base_weight", [0.0, 0.25])
@pytest.mark.parametrize("weights", [(0.7, 0.1, 0.4), (2.0, -0.5, 1.0)])
def test_linear_is_the_weighted_sum(normalize: bool, base_weight: float, weights: tuple[float, ...]) -> None:
    base, experts = drawn((3, 4), 3)
    wanted = np.zeros((3, 4))
    for i in range(3):
        for j in range(4):
            value, total = base_weight * base[i, j], base_weight
            for weight, expert in zip(weights, experts, strict=True):
                value += weight * expert[i, j]
                total += weight
            wanted[i, j] = value / total if normalize else value
    tensor = to_merge(base, experts, weights)
    found = merged("linear", tensor, normalize=normalize, base_weight=base_weight)
    np.testing.assert_allclose(found, wanted, **CLOSE)


def unit_rows(shape: tuple[int, int], seed: int) -> Array:
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_slerp_of_unit_vectors_is_scipys(t: float) -> None:
    first, second = unit_rows((2, 6), 1)
    tensor = to_merge(np.zeros((2, 3)), [first.reshape(2, 3), second.reshape(2, 3)], (3 * (1 - t), 3 * t))
    np.testing.assert_allclose(merged("slerp", tensor).ravel(), geometric_slerp(first, second, t), **CLOSE)


def test_slerp_of_other_vectors_keeps_their_lengths_in_the_sum() -> None:
    base, (first, second) = drawn((2, 3))
    second = second + 1.0
    a, b, t = first.ravel(), second.ravel(), 0.3
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    angle = math.acos(dot / lengths)
    wanted = [
        (math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle)
        for x, y in zip(a, b, strict=True)
    ]
    found = merged("slerp", to_merge(base, [first, second], (0.7, 0.3)))
    np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-10)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 1 + 1e-9, 0.0])
def test_slerp_averages_tensors_without_an_angle_between_them(factor: float) -> None:
    first = np.array([[1.0, -2.0, 3.0]])
    tensor = to_merge(np.zeros((1, 3)), [first, first * factor], (0.25, 0.75))
    np.testing.assert_allclose(merged("slerp", tensor), first * (0.25 + 0.75 * factor), **CLOSE)


def test_slerp_goes_on_smoothly_to_small_angles() -> None:
    for angle in (1e-2, 1e-4, 3e-6, 0.9e-6, 1e-8):
        first, second = np.array([1.0, 0.0]), np.array([math.cos(angle), math.sin(angle)])
        found = merged("slerp", to_merge([0.0, 0.0], [first, second], (0.5, 0.5)))
        np.testing.assert_allclose(found, [math.cos(angle / 2), math.sin(angle / 2)], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("of", ["vectors", "weights"])
def test_nuslerp_along_rows_columns_and_tensors_is_scipys(of: str) -> None:
    first, second, t = unit_rows((4, 5), 2), unit_rows((4, 5), 3), 0.4
    base = np.random.default_rng(4).normal(size=(4, 5))
    start = base if of == "vectors" else np.zeros((4, 5))

    def found(a: Array, b: Array, along: str, start: Array, base: Array) -> Array:
        tensor = to_merge(base, [start + a, start + b], (0.6, 0.4))
        return merged("nuslerp", tensor, along=along, of=of) - start

    rows = np.stack([geometric_slerp(a, b, t) for a, b in zip(first, second, strict=True)])
    np.testing.assert_allclose(found(first, second, "rows", start, base), rows, rtol=1e-9, atol=1e-12)
    columns = found(first.T, second.T, "columns", start.T, base.T)
    np.testing.assert_allclose(columns, rows.T, rtol=1e-9, atol=1e-12)
    # Four unit rows are a vector of length 2.
    whole = 2 * geometric_slerp(first.ravel() / 2, second.ravel() / 2, t)
    np.testing.assert_allclose(
        found(first, second, "tensor", start, base).ravel(), whole, rtol=1e-9, atol=1e-12
    )


def test_nuslerp_takes_a_convolution_by_output_channel_and_a_bias_whole() -> None:
    first, second = unit_rows((3, 8), 5), unit_rows((3, 8), 6)
    tensor = to_merge(np.zeros((3, 2, 4)), [first.reshape(3, 2, 4), second.reshape(3, 2, 4)], (0.5, 0.5))
    wanted = np.stack([geometric_slerp(a, b, 0.5) for a, b in zip(first, second, strict=True)])
    np.testing.assert_allclose(merged("nuslerp", tensor, along="rows").reshape(3, 8), wanted, **CLOSE)
    bias = to_merge(np.zeros(8), [first[0], second[0]], (0.5, 0.5))
    for along in ("tensor", "rows", "columns"):
        np.testing.assert_allclose(merged("nuslerp", bias, along=along), wanted[0], **CLOSE)


def test_karcher_of_two_is_a_point_of_the_arc_times_the_mean_norm() -> None:
    first, second = unit_rows((2, 6), 7)
    tensor = to_merge(np.zeros(6), [3 * first, 5 * second], (0.75, 0.25))
    wanted = (0.75 * 3 + 0.25 * 5) * geometric_slerp(first, second, 0.25)
    np.testing.assert_allclose(merged("karcher", tensor), wanted, rtol=1e-10)


def test_karcher_of_three_has_the_least_sum_of_squared_arcs() -> None:
    directions, weights = unit_rows((3, 4), 8) + 0.5, np.array([0.5, 0.2, 0.3])
    norms = np.linalg.norm(directions, axis=1)
    units = directions / norms[:, None]

    def arcs(point: Array) -> float:
        return float(weights @ np.arccos(np.clip(units @ point / np.linalg.norm(point), -1, 1)) ** 2)

    best = minimize(arcs, units.mean(axis=0), tol=1e-14).x
    wanted = weights @ norms * best / np.linalg.norm(best)
    found = merged("karcher", to_merge(np.zeros(4), list(directions), weights))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert arcs(found) <= arcs(best) * (1 + 1e-14)


def test_karcher_without_a_mean_direction_averages() -> None:
    first = np.array([1.0, 2.0])
    np.testing.assert_allclose(merged("karcher", to_merge([0, 0], [first, -first], (1, 1))), [0, 0], **CLOSE)
    np.testing.assert_allclose(merged("karcher", to_merge([5.0], [[4.0], [-2.0]], (1, 1))), [1.0], **CLOSE)
    # A tensor of zeros has no direction and halves the norm.
    np.testing.assert_allclose(
        merged("karcher", to_merge([0, 0], [first, 0 * first], (1, 1))), first / 2, **CLOSE
    )
    np.testing.assert_array_equal(merged("karcher", to_merge([1, 1], [0 * first, 0 * first], (1, 1))), [0, 0])


def test_karcher_stops_when_asked() -> None:
    directions = list(unit_rows((3, 4), 9))
    tensor = to_merge(np.zeros(4), directions, (1, 1, 4))
    one, many = merged("karcher", tensor, max_iter=1), merged("karcher", tensor)
    assert np.abs(one - many).max() > 1e-6
    start = np.average(directions, axis=0, weights=(1, 1, 4))
    start *= 1 / np.linalg.norm(start)
    np.testing.assert_allclose(merged("karcher", tensor, tol=1.0), start, **CLOSE)


def test_fisher_weighs_each_number_by_its_information() -> None:
    base, experts = drawn((2, 3), 3)
    fishers = list(np.random.default_rng(1).uniform(size=(3, 2, 3)).astype(np.float32))
    fishers[0][0, 0] = 0.0
    for fisher in fishers:
        fisher[1, 2] = 0.0
    weights = (0.5, 2.0, 1.0)
    wanted = np.zeros((2, 3))
    for i in range(2):
        for j in range(3):
            parts = [w * float(f[i, j]) for w, f in zip(weights, fishers, strict=True)]
            parts = parts if sum(parts) else list(weights)
            wanted[i, j] = sum(p * e[i, j] for p, e in zip(parts, experts, strict=True)) / sum(parts)
    found = merged("fisher", to_merge(base, experts, weights, statistics=fishers))
    np.testing.assert_allclose(found, wanted, **CLOSE)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_a_tensor_without_statistics_is_averaged(method: str) -> None:
    base, experts = drawn((4,), 2)
    tensor = to_merge(base, experts, (1, 3), statistics=[None, None])
    np.testing.assert_allclose(merged(method, tensor), (experts[0] + 3 * experts[1]) / 4, **CLOSE)


def inputs(count: int, size: int, seed: int) -> list[Array]:
    return list(np.random.default_rng(seed).normal(size=(2, count, size)))


def test_regmean_is_the_regression_on_all_inputs() -> None:
    base, experts = drawn((3, 4))
    data = inputs(9, 4, 1)
    # One least squares problem: rows of both experts' inputs, and each expert's outputs for its own.
    outputs = [x @ expert.T for x, expert in zip(data, experts, strict=True)]
    wanted = np.linalg.lstsq(np.concatenate(data), np.concatenate(outputs), rcond=None)[0].T
    tensor = to_merge(base, experts, (1, 1), statistics=[x.T @ x for x in data])
    np.testing.assert_allclose(merged("regmean", tensor, alpha=1.0), wanted, rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 0.9])
def test_regmean_is_the_papers_closed_form(alpha: float) -> None:
    base, experts = drawn((3, 4))
    grams = [x.T @ x for x in inputs(9, 4, 2)]
    for gram in grams:
        off = ~np.eye(4, dtype=bool)
        gram[off] *= alpha
    # The paper's layers are [in, out].
    weighted = 1.5 * grams[0] @ experts[0].T + 0.5 * grams[1] @ experts[1].T
    wanted = (np.linalg.inv(1.5 * grams[0] + 0.5 * grams[1]) @ weighted).T
    plain = [x.T @ x for x in inputs(9, 4, 2)]
    found = merged("regmean", to_merge(base, experts, (1.5, 0.5), statistics=plain), alpha=alpha)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize("alpha", [1.0, 0.9])
def test_regmean_keeps_the_average_for_inputs_that_never_came(alpha: float) -> None:
    base, experts = drawn((3, 5))
    data = inputs(9, 5, 3)
    for x in data:
        x[:, 2] = 0.0
    found = merged(
        "regmean", to_merge(base, experts, (1, 1), statistics=[x.T @ x for x in data]), alpha=alpha
    )
    np.testing.assert_allclose(found[:, 2], (experts[0] + experts[1])[:, 2] / 2, **CLOSE)
    seen = [0, 1, 3, 4]
    part = to_merge(
        base[:, seen],
        [e[:, seen] for e in experts],
        (1, 1),
        statistics=[(x.T @ x)[np.ix_(seen, seen)] for x in data],
    )
    np.testing.assert_allclose(found[:, seen], merged("regmean", part, alpha=alpha), rtol=1e-10)


def test_regmean_of_fewer_inputs_than_columns_gives_their_outputs() -> None:
    base, experts = drawn((3, 8))
    data = inputs(3, 8, 4)
    tensor = to_merge(base, experts, (1, 1), statistics=[x.T @ x for x in data])
    found = merged("regmean", tensor, alpha=1.0)
    for x, expert in zip(data, experts, strict=True):
        np.testing.assert_allclose(x @ found.T, x @ expert.T, rtol=1e-8)


@pytest.mark.parametrize("seed", range(8))
def test_regmean_does_not_enlarge_rounding_where_inputs_are_nearly_the_same(seed: int) -> None:
    base, experts = drawn((3, 4), seed=seed)
    data = inputs(9, 4, 20 + seed)
    for x in data:
        x[:, 1] = x[:, 0] + 1e-9 * x[:, 1]
    tensor = to_merge(base, experts, (1, 1), statistics=[x.T @ x for x in data])
    found = merged("regmean", tensor, alpha=1.0)
    assert np.abs(found - (experts[0] + experts[1]) / 2).max() < np.abs(experts[0] - experts[1]).max()
    # The regression on the three inputs that differ gives the same outputs.
    three = [np.delete(x, 1, axis=1) for x in data]
    outputs = [x @ expert.T for x, expert in zip(data, experts, strict=True)]
    wanted = np.linalg.lstsq(np.concatenate(three), np.concatenate(outputs), rcond=None)[0].T
    joined = np.stack([found[:, 0] + found[:, 1], found[:, 2], found[:, 3]], axis=1)
    np.testing.assert_allclose(joined, wanted, rtol=1e-6)


def test_regmean_takes_a_convolution_as_a_matrix_if_it_has_gram_matrices() -> None:
    base, experts = drawn((3, 2, 2))
    grams = [x.T @ x for x in inputs(9, 4, 5)]
    flat = to_merge(base.reshape(3, 4), [e.reshape(3, 4) for e in experts], (1, 2), statistics=grams)
    found = merged("regmean", to_merge(base, experts, (1, 2), statistics=grams))
    np.testing.assert_allclose(found.reshape(3, 4), merged("regmean", flat), **CLOSE)
    without = merged("regmean", to_merge(base, experts, (1, 2), statistics=[None, None]))
    np.testing.assert_allclose(without, (experts[0] + 2 * experts[1]) / 3, **CLOSE)
