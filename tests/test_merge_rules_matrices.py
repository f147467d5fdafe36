"""Rules on task matrices against numpy, scipy's polar decomposition and autograd: tsv-m, iso-c, wudi."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.linalg import polar

from tensors_to_merge import Array, drawn, edited, merged, to_merge


def truncated(matrix: Array, rank: int) -> tuple[Array, Array, Array]:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank]


@pytest.mark.parametrize(("shape", "count"), [((9, 6), 2), ((6, 9), 3), ((7, 7), 3)])
def test_tsv_merge_is_the_papers_algorithm(shape: tuple[int, int], count: int) -> None:
    base, experts = drawn(shape, count)
    parts = [truncated(expert - base, min(shape) // count) for expert in experts]
    # The nearest matrix with orthonormal columns is the first factor of the polar decomposition.
    left = polar(np.concatenate([u for u, _, _ in parts], axis=1))[0]
    right = polar(np.concatenate([v.T for _, _, v in parts], axis=1))[0]
    singular = np.concatenate([s for _, s, _ in parts])
    coefficients = np.repeat([0.7, 1.0, -0.5][:count], min(shape) // count)
    found = merged("tsv-m", to_merge(base, experts, [0.7, 1.0, -0.5][:count]))
    np.testing.assert_allclose(
        found, base + (left * singular * coefficients) @ right.T, rtol=1e-9, atol=1e-12
    )


def test_tsv_merge_makes_experts_orthogonal() -> None:
    base, experts = drawn((12, 8))
    one, other = edited("tsv-m", to_merge(base, experts, (1, 1)))
    np.testing.assert_allclose(one.T @ other, 0, atol=1e-14)
    np.testing.assert_allclose(one @ other.T, 0, atol=1e-14)
    # The singular values are those of the vectors, of which the larger half is left.
    wanted = np.linalg.svd(experts[0] - base, compute_uv=False)[:4]
    np.testing.assert_allclose(np.linalg.svd(one, compute_uv=False)[:4], wanted, rtol=1e-10)


def low_rank(shape: tuple[int, int], rank: int, seed: int) -> Array:
    numbers = np.random.default_rng(seed)
    return numbers.normal(size=(shape[0], rank)) @ numbers.normal(size=(rank, shape[1]))


def test_tsv_merge_gives_back_vectors_of_low_rank_in_directions_of_their_own() -> None:
    one, other = np.zeros((8, 6)), np.zeros((8, 6))
    one[:4, :3], other[4:, 3:] = low_rank((4, 3), 1, 0), low_rank((4, 3), 2, 1)
    tensor = to_merge(np.zeros((8, 6)), [one, other], (1, 2))
    np.testing.assert_allclose(merged("tsv-m", tensor), one + 2 * other, rtol=1e-12, atol=1e-13)


def test_tsv_merge_of_equal_experts_and_of_zeros() -> None:
    vector = low_rank((6, 4), 2, 2)
    twice = to_merge(np.zeros((6, 4)), [vector, vector], (1, 1))
    np.testing.assert_allclose(merged("tsv-m", twice), vector, rtol=1e-12, atol=1e-13)
    for shape in ((6, 4), (4, 6), (1, 5), (1, 1)):
        nothing = to_merge(np.ones(shape), [np.ones(shape)] * 3, (1, 1, 1))
        np.testing.assert_array_equal(merged("tsv-m", nothing), np.ones(shape))


def test_tsv_merge_keeps_a_direction_of_each_of_many_experts() -> None:
    rows = [np.array([[3.0, 0.0, 0.0]]), np.array([[0.0, 4.0, 0.0]]), np.array([[0.0, 0.0, -5.0]])]
    found = merged("tsv-m", to_merge(np.zeros((1, 3)), rows, (1, 1, 1)))
    # Three directions share one output; the nearest orthonormal [1, 3] has entries of 1 / sqrt(3).
    np.testing.assert_allclose(np.abs(found), np.array([[3, 4, 5]]) / np.sqrt(3), rtol=1e-12)
    assert (np.sign(found) == [[1, 1, -1]]).all()


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (5, 5)])
@pytest.mark.parametrize("coefficient", [1.0, 0.4, -0.3])
def test_iso_c_sets_all_singular_values_of_the_sum_to_their_mean(
    shape: tuple[int, int], coefficient: float
) -> None:
    base, experts = drawn(shape, 3)
    left, values, right = np.linalg.svd(sum(expert - base for expert in experts), full_matrices=False)
    found = merged("iso-c", to_merge(base, experts, [coefficient] * 3))
    wanted = base + coefficient * values.mean() * left @ right
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_iso_c_flattens_a_difference_if_a_coefficient_is_negative() -> None:
    base, experts = drawn((6, 4))
    left, values, right = np.linalg.svd(experts[0] - experts[1], full_matrices=False)
    found = merged("iso-c", to_merge(base, experts, (1, -1)))
    np.testing.assert_allclose(found, base + values.mean() * left @ right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_iso_c_leaves_directions_out_that_the_sum_does_not_have(shape: tuple[int, int]) -> None:
    vector = low_rank(shape, 2, 3)
    left, values, right = truncated(vector, 2)
    found = merged("iso-c", to_merge(np.zeros(shape), [vector / 4, vector * 3 / 4], (1, 1)))
    np.testing.assert_allclose(found, values.mean() * left @ right, rtol=1e-9, atol=1e-12)
    nothing = to_merge(np.ones(shape), [np.ones(shape)] * 2, (1, 1))
    np.testing.assert_array_equal(merged("iso-c", nothing), np.ones(shape))


def descended(vectors: Sequence[Array], steps: int, rate: float) -> Array:
    """The paper's loss as it is written, by autograd and torch's Adam."""
    tasks = [torch.as_tensor(vector) for vector in vectors]
    total = torch.nn.Parameter(sum(tasks))
    optimizer = torch.optim.Adam([total], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(((total - t) @ t.T).square().sum() / t.square().sum() for t in tasks)
        loss.backward()
        optimizer.step()
    return total.detach().numpy()


@pytest.mark.parametrize(("shape", "count"), [((6, 4), 2), ((4, 6), 3)])
@pytest.mark.parametrize(("steps", "rate"), [(1, 1e-5), (40, 1e-3)])
def test_wudi_descends_the_papers_loss(shape: tuple[int, int], count: int, steps: int, rate: float) -> None:
    base, experts = drawn(shape, count)
    wanted = base + descended([expert - base for expert in experts], steps, rate)
    found = merged("wudi", to_merge(base, experts, [1] * count), steps=steps, learning_rate=rate)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_wudi_starts_with_the_papers_steps_and_rate() -> None:
    base, experts = drawn((4, 3))
    wanted = base + descended([expert - base for expert in experts], 300, 1e-5)
    np.testing.assert_allclose(merged("wudi", to_merge(base, experts, (1, 1))), wanted, rtol=1e-9)


def test_wudi_scales_vectors_by_coefficients_and_leaves_out_those_that_are_zero() -> None:
    base, experts = drawn((5, 4))
    vectors = [0.5 * (experts[0] - base), 2.0 * (experts[1] - base)]
    wanted = base + descended(vectors, 30, 1e-3)
    options = {"steps": 30, "learning_rate": 1e-3}
    found = merged("wudi", to_merge(base, [*experts, base], (0.5, 2.0, 1.0)), **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    found = merged("wudi", to_merge(base, [*experts, experts[0]], (0.5, 2.0, 0.0)), **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_wudi_comes_to_the_least_disturbance() -> None:
    base, experts = drawn((8, 6), 3)
    vectors = [expert - base for expert in experts]

    def disturbance(total: Array) -> float:
        return float(sum((((total - t) @ t.T) ** 2).sum() / (t**2).sum() for t in vectors))

    # The loss is quadratic: its minimum solves D sum_k G_k = sum_k T_k G_k.
    grams = [t.T @ t / (t**2).sum() for t in vectors]
    right = sum(t @ gram for t, gram in zip(vectors, grams, strict=True))
    least = np.linalg.solve(sum(grams), right.T).T
    found = merged("wudi", to_merge(base, experts, (1, 1, 1)), steps=2000, learning_rate=1e-3) - base
    assert disturbance(least) < 0.7 * disturbance(sum(vectors))
    np.testing.assert_allclose(disturbance(found), disturbance(least), rtol=1e-6)


@pytest.mark.parametrize("method", ["tsv-m", "iso-c", "wudi"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 2, 4), (1, 1, 5)])
def test_what_is_no_matrix_is_averaged(method: str, shape: tuple[int, ...]) -> None:
    base, experts = drawn(shape, 3)
    weights = (1.0, 0.5, -2.0)
    wanted = base + sum(w * (e - base) for w, e in zip(weights, experts, strict=True)) / 3
    np.testing.assert_allclose(merged(method, to_merge(base, experts, weights)), wanted, rtol=1e-12)
