"""What holds for merge rules whatever the weights are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tensors_to_merge import Array, drawn, edited, merged, to_merge
from voxstrata.merging.rules import rule
from voxstrata.merging.rules.averages import AverageRule
from voxstrata.merging.rules.registry import RULES
from voxstrata.merging.rules.rule import TensorToMerge, VectorRule

VECTORS = [name for name, each in RULES.items() if isinstance(each, VectorRule)]
AVERAGES = [name for name, each in RULES.items() if isinstance(each, AverageRule)]
PAIRS = [name for name, each in RULES.items() if each.experts == (2, 2)]
RANDOM = ["dare", "della"]
#: Options with which a rule changes no task vector that is alone.
UNCHANGED: dict[str, dict[str, Any]] = {
    **{name: {} for name in RULES if name != "iso-c"},
    **{name: {"density": 1} for name in ("ties", "dare", "breadcrumbs", "della")},
}
#: What checkpoints hold: float32 numbers.
NUMBERS = st.floats(-4, 4, width=32)
COEFFICIENTS = st.floats(-2, 2, width=16)
WEIGHTS = st.floats(0.0625, 2, width=16)


@st.composite
def tensors(
    draw: st.DrawFn, count: int = 3, coefficients: st.SearchStrategy[float] = COEFFICIENTS
) -> TensorToMerge:
    """A small tensor of any shape, with experts and coefficients."""
    shape = draw(st.sampled_from([(1,), (6,), (2, 3), (3, 2), (4, 4), (2, 2, 3)]))
    base, *experts = (draw(arrays(np.float32, shape, elements=NUMBERS)) for _ in range(count + 1))
    return to_merge(base, experts, draw(st.lists(coefficients, min_size=count, max_size=count)))


def measured(method: str, tensor: TensorToMerge) -> TensorToMerge:
    """The same with statistics, if the method needs them."""
    kind, numbers = RULES[method].statistics, np.random.default_rng(0)
    shape = tuple(tensor.base.shape)
    if kind is None or (kind == "gram" and len(shape) < 2):
        return replace(tensor, statistics=(None,) * len(tensor.experts) if kind else ())
    if kind == "fisher":
        found = [numbers.uniform(size=shape) for _ in tensor.experts]
    else:
        found = [x.T @ x for x in numbers.normal(size=(len(tensor.experts), 9, int(np.prod(shape[1:]))))]
    return replace(tensor, statistics=tuple(torch.as_tensor(each) for each in found))


def reordered(tensor: TensorToMerge, order: list[int]) -> TensorToMerge:
    return replace(
        tensor,
        experts=tuple(tensor.experts[k] for k in order),
        coefficients=tuple(tensor.coefficients[k] for k in order),
        statistics=tuple(tensor.statistics[k] for k in order) if tensor.statistics else (),
    )


@pytest.mark.parametrize("method", ["task-arithmetic", "linear"])
@given(tensor=tensors(), more=st.lists(COEFFICIENTS, min_size=3, max_size=3), factor=COEFFICIENTS)
@settings(max_examples=60, deadline=None)
def test_sums_are_linear_in_the_coefficients(
    method: str, tensor: TensorToMerge, more: list[float], factor: float
) -> None:
    options = {"normalize": False} if method == "linear" else {}
    both = tuple(a + factor * b for a, b in zip(tensor.coefficients, more, strict=True))
    if method == "linear" and not (any(tensor.coefficients) and any(more) and any(both)):
        return
    start = tensor.base.numpy() if method == "task-arithmetic" else 0.0
    one, other, together = (
        merged(method, replace(tensor, coefficients=tuple(c)), **options) - start
        for c in (tensor.coefficients, more, both)
    )
    np.testing.assert_allclose(together, one + factor * other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [name for name in RULES if name not in (*PAIRS, *RANDOM)])
@given(tensor=tensors(coefficients=WEIGHTS), order=st.permutations([0, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_the_order_of_experts_changes_nothing(method: str, tensor: TensorToMerge, order: list[int]) -> None:
    # Singular vectors of equal singular values, and directions without a mean, are not unique.
    options = {"density": 0.5} if "density" in RULES[method].options.model_fields else {}
    options |= {"steps": 10} if method == "wudi" else {}
    if method in ("tsv-m", "iso-c", "wudi", "karcher"):
        base, experts = drawn(tuple(tensor.base.shape), 3, seed=int(abs(tensor.base).sum() * 100))
        tensor = to_merge(base, experts, tensor.coefficients)
    tensor = measured(method, tensor)
    found = merged(method, reordered(tensor, order), **options)
    np.testing.assert_allclose(found, merged(method, tensor, **options), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", PAIRS)
@given(tensor=tensors(2, WEIGHTS))
@settings(max_examples=40, deadline=None)
def test_an_arc_is_the_same_from_both_ends(method: str, tensor: TensorToMerge) -> None:
    found = merged(method, reordered(tensor, [1, 0]))
    np.testing.assert_allclose(found, merged(method, tensor), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", [*VECTORS, "wudi"])
@given(tensor=tensors())
@settings(max_examples=20, deadline=None)
def test_coefficients_of_zero_give_the_base_bit_for_bit(method: str, tensor: TensorToMerge) -> None:
    found = merged(method, replace(tensor, coefficients=(0.0, 0.0, -0.0)))
    np.testing.assert_array_equal(found.view(np.int64), tensor.base.numpy().view(np.int64))


@pytest.mark.parametrize("method", UNCHANGED)
@given(tensor=tensors(2), number=st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_one_expert_gives_itself_bit_for_bit(method: str, tensor: TensorToMerge, number: int) -> None:
    coefficients = (0.0, 0.0)
    coefficients = (*coefficients[:number], 1.0, *coefficients[number + 1 :])
    tensor = measured(method, replace(tensor, coefficients=coefficients))
    found = merged(method, tensor, **UNCHANGED[method])
    np.testing.assert_array_equal(found.view(np.int64), tensor.experts[number].numpy().view(np.int64))


@pytest.mark.parametrize("method", UNCHANGED)
def test_one_expert_gives_itself_where_adding_the_vector_would_round(method: str) -> None:
    # 1e-30 less 1 is -1 in float64, and 1 less 1 is 0.
    tensor = to_merge([1.0, 2.0], [[1e-30, 3.0], [0.0, 0.0]], (1, 0))
    found = merged(method, measured(method, tensor), **UNCHANGED[method])
    np.testing.assert_array_equal(found, [1e-30, 3.0])


@pytest.mark.parametrize("method", AVERAGES)
def test_any_weight_of_an_expert_alone_is_all_the_weight(method: str) -> None:
    base, experts = drawn((3, 4))
    tensor = measured(method, to_merge(base, experts, (0.3, 0.0)))
    np.testing.assert_array_equal(merged(method, tensor), experts[0])


@pytest.mark.parametrize("method", [name for name in RULES if name not in PAIRS])
@given(tensor=tensors(2, WEIGHTS), extra=arrays(np.float32, 20, elements=NUMBERS))
@settings(max_examples=30, deadline=None)
def test_an_expert_with_coefficient_zero_takes_no_part(
    method: str, tensor: TensorToMerge, extra: Array
) -> None:
    absent = torch.as_tensor(np.resize(extra, tuple(tensor.base.shape)).astype(np.float64))
    with_it = replace(tensor, experts=(*tensor.experts, absent), coefficients=(*tensor.coefficients, 0.0))
    with_it = measured(method, with_it)
    without = replace(tensor, statistics=with_it.statistics[:2])
    np.testing.assert_array_equal(merged(method, with_it), merged(method, without))


@pytest.mark.parametrize("method", ["ties", "dare", "breadcrumbs", "della"])
@given(tensor=tensors())
@settings(max_examples=40, deadline=None)
def test_density_one_keeps_all(method: str, tensor: TensorToMerge) -> None:
    kept = edited(method, replace(tensor, coefficients=(1.0, 0.0, 0.0)).taking_part(), density=1)
    np.testing.assert_array_equal(kept[0], tensor.deltas[0].numpy())
    if method != "ties":
        every = edited(method, tensor, density=1, combine="linear")
        for vector, delta in zip(every, tensor.deltas, strict=True):
            np.testing.assert_array_equal(vector, delta.numpy())


@pytest.mark.parametrize("method", VECTORS)
@given(tensor=tensors(coefficients=WEIGHTS))
@settings(max_examples=30, deadline=None)
def test_edited_vectors_give_the_merge_of_any_coefficients(method: str, tensor: TensorToMerge) -> None:
    vectors = edited(method, replace(tensor, coefficients=(1.0, 1.0, 1.0)))
    found = merged(method, tensor)
    total = sum(c * vector for c, vector in zip(tensor.coefficients, vectors, strict=True))
    # Merge, then extract: the vector comes back to rounding.
    np.testing.assert_allclose(found - tensor.base.numpy(), total, rtol=1e-12, atol=1e-13)


def test_which_rules_leave_their_coefficients_to_be_learned() -> None:
    assert set(VECTORS) == {
        *("task-arithmetic", "ties", "breadcrumbs", "dare", "della", "model-stock", "tsv-m", "iso-c")
    }
    for method in VECTORS:
        known: Any = RULES[method]
        assert known.learnable(known.options())
    ties: Any = RULES["ties"]
    assert not ties.learnable(ties.options(normalize=True))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("method", RANDOM)
def test_draws_depend_on_neither_threads_nor_the_order_of_tensors(method: str) -> None:
    shapes = [(300, 200), (40_000,), (3, 4)]
    work = [to_merge(*drawn(shape, 2), (1.0, 0.5), seed=seed) for seed, shape in enumerate(shapes)]
    found = []
    for number, order in ((1, [0, 1, 2]), (4, [2, 1, 0]), (3, [1, 0, 2])):
        torch.set_num_threads(number)
        torch.manual_seed(number)
        results = {k: merged(method, work[k]) for k in order}
        found.append([results[k] for k in range(3)])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", RULES)
def test_what_is_merged_is_not_changed(method: str) -> None:
    base, experts = drawn((4, 3))
    tensor = measured(method, to_merge(base, experts, (1.0, 0.5)))
    statistics = [each.clone() for each in tensor.statistics if each is not None]
    merged(method, tensor, **({"steps": 3} if method == "wudi" else {}))
    np.testing.assert_array_equal(tensor.base.numpy(), base)
    for found, expert in zip(tensor.experts, experts, strict=True):
        np.testing.assert_array_equal(found.numpy(), expert)
    for found, each in zip([s for s in tensor.statistics if s is not None], statistics, strict=True):
        np.testing.assert_array_equal(found.numpy(), each.numpy())


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1,), (1, 1), (5,), (1, 1, 3)])
def test_tensors_of_any_shape_are_merged_to_that_shape(method: str, shape: tuple[int, ...]) -> None:
    base, experts = drawn(shape)
    tensor = (
        measured(method, to_merge(base, experts, (1.0, 0.5)))
        if base.size
        else to_merge(base, experts, (1, 1))
    )
    tensor = replace(tensor, statistics=tensor.statistics or (None, None))
    found = merged(method, tensor)
    assert found.shape == shape
    assert found.dtype == np.float64
    assert np.isfinite(found).all()


@pytest.mark.parametrize("shape", [(7, 5), (6, 2, 3)])
@pytest.mark.parametrize("weights", [(1.0, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("method", RULES)
def test_a_large_tensor_that_is_merged_in_slices_is_the_same(
    method: str, weights: tuple[float, float], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = drawn(shape)
    options = {"combine": "ties"} if "combine" in RULES[method].options.model_fields else {}
    tensor = measured(method, to_merge(base, experts, weights, seed=3))
    found = merged(method, tensor, **options)
    monkeypatch.setattr(rule, "SLICE", 12)
    np.testing.assert_array_equal(merged(method, tensor, **options), found)


def test_slices_have_as_many_rows_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "SLICE", 12)
    parts: list[TensorToMerge] = []

    def merge(part: TensorToMerge) -> torch.Tensor:
        parts.append(part)
        return part.base + part.experts[0] + part.statistics[0]

    base, experts = drawn((7, 5))
    tensor = to_merge(base, experts, (1.0, 0.5), statistics=[base, None])
    np.testing.assert_array_equal(rule.in_slices(tensor, merge).numpy(), base + experts[0] + base)
    assert [len(part.base) for part in parts] == [2, 2, 2, 1]
    parts.clear()
    rule.in_slices(to_merge(*drawn((30,)), (1, 1), statistics=[np.zeros(30)] * 2), merge)
    assert [len(part.base) for part in parts] == [30]
