"""What a merge rule cannot do is refused in one clear line."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tensors_to_merge import drawn, edited, merged, to_merge
from voxstrata.errors import CheckpointError, RecipeError, VoxstrataError
from voxstrata.merging.rules.registry import RULES, option_names, options_of, rule_named
from voxstrata.merging.rules.rule import TensorToMerge


def line(fault: pytest.ExceptionInfo[VoxstrataError]) -> str:
    text = str(fault.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("ties", {"density": 0}, "ties: density: found 0; more than 0 and at most 1 is needed"),
        ("dare", {"density": 1.5}, "density: found 1.5; more than 0 and at most 1 is needed"),
        ("dare", {"density": [0.5, -1]}, "density: found [0.5, -1]; more than 0 and at most 1"),
        ("della", {"density": math.nan}, "density: found nan; a finite number is needed"),
        ("ties", {"density": "half"}, "density: found 'half'; a finite number is needed"),
        ("ties", {"density": True}, "density: found true; a finite number is needed"),
        ("ties", {"density": []}, "density: found an empty list"),
        ("ties", {"majority": "mas"}, "majority: found 'mas'; allowed: mass, count; did you mean mass?"),
        ("ties", {"combine": "linear"}, "combine: there is no such key (options: lambda, normalize, density"),
        ("ties", {"lambda": math.inf}, "lambda: found inf; a finite number is needed"),
        ("breadcrumbs", {"gamma": 1}, "gamma: found 1; at least 0 and less than 1 is needed"),
        ("della", {"density": 0.9, "epsilon": 0.3}, "epsilon: found 0.3 with density 0.9; at most 0.2"),
        (
            "della",
            {"density": [0.5, 0.1], "epsilon": 0.3},
            "epsilon: found 0.3 with density 0.1; at most 0.2",
        ),
        ("wudi", {"steps": 0}, "steps: found 0; more than 0 is needed"),
        ("wudi", {"learning_rate": 0}, "learning_rate: found 0; more than 0 is needed"),
        ("karcher", {"tol": -1}, "tol: found -1; more than 0 is needed"),
        ("regmean", {"alpha": 2}, "alpha: found 2; at most 1 is allowed"),
        ("nuslerp", {"along": "row"}, "along: found 'row'; allowed: tensor, rows, columns"),
        ("linear", {"base_weight": -1}, "base_weight: found -1; at least 0 is needed"),
        ("slerp", {"t": 0.5}, "t: there is no such key (options: none)"),
    ],
)
def test_options_that_are_not_allowed(method: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError) as fault:
        options_of(RULES[method], options)
    assert sentence in line(fault)


@pytest.mark.parametrize(
    ("method", "coefficients", "sentence"),
    [
        ("slerp", (1, 1, 1), "slerp merges 2 experts; found 3"),
        ("nuslerp", (1,), "nuslerp merges 2 experts; found 1"),
        ("model-stock", (1,), "model-stock merges 2 or more experts; found 1"),
        ("ties", (1, math.nan), "ties: the coefficient of expert 2 is nan; give a finite number"),
        ("linear", (math.inf, 1), "linear: the coefficient of expert 1 is inf"),
        ("linear", (0, 0), "linear: the weights 0, 0 sum to 0"),
        ("slerp", (1, -1), "slerp: the weights 1, -1 sum to 0"),
        ("linear", (0.1, 0.2, -0.3), "linear: the weights 0.1, 0.2, -0.3 sum to 0"),
        ("karcher", (1, -0.5), "karcher: weights of an average are 0 or more; found -0.5"),
        ("fisher", (-1, 2), "fisher: weights of an average are 0 or more; found -1"),
        ("regmean", (-1, 2), "regmean: weights of an average are 0 or more; found -1"),
    ],
)
def test_coefficients_that_cannot_be_merged(
    method: str, coefficients: tuple[float, ...], sentence: str
) -> None:
    rule = RULES[method]
    with pytest.raises(RecipeError) as fault:
        rule.check(coefficients, rule.options())
    assert sentence in line(fault)
    base, experts = drawn((2, 3), len(coefficients))
    with pytest.raises(RecipeError, match="^" + method):
        merged(method, to_merge(base, experts, coefficients))


def test_normalize_cannot_divide_by_zero() -> None:
    base, experts = drawn((2, 3))
    for method in ("task-arithmetic", "dare", "breadcrumbs"):
        with pytest.raises(RecipeError, match="normalize divides by the sum of the coefficients, which is 0"):
            merged(method, to_merge(base, experts, (1, -1)), normalize=True)
        np.testing.assert_array_equal(merged(method, to_merge(base, experts, (0, 0)), normalize=True), base)
    with pytest.raises(RecipeError, match="the weights 0, 0 sum to 0"):
        merged("linear", to_merge(base, experts, (0, 0)), normalize=False)


def test_a_list_has_a_value_for_each_expert() -> None:
    base, experts = drawn((4, 6), 3)
    with pytest.raises(RecipeError) as fault:
        merged("ties", to_merge(base, experts, (1, 1, 1)), density=[0.5, 0.2])
    assert "ties: density has 2 values for 3 experts; give one for all, or one for each" in line(fault)
    densities = [0.5, 1.0, 0.25]
    each = edited("breadcrumbs", to_merge(base, experts, (1, 1, 1)), density=densities, gamma=0)
    assert [int((vector != 0).sum()) for vector in each] == [12, 24, 6]
    # The place among all experts counts, also if one of them takes no part.
    found = merged("breadcrumbs", to_merge(base, experts, (1, 0, 1)), density=densities, gamma=0)
    np.testing.assert_allclose(found, base + each[0] + each[2], rtol=1e-14)


def test_random_numbers_stay_with_an_expert_if_another_takes_no_part() -> None:
    base, experts = drawn((4, 6), 3)
    each = edited("dare", to_merge(base, experts, (1, 1, 1), seed=7))
    found = merged("dare", to_merge(base, experts, (1, 0, 1), seed=7))
    np.testing.assert_allclose(found, base + each[0] + each[2], rtol=1e-14)


@pytest.mark.parametrize(
    ("method", "statistics", "sentence"),
    [
        (
            "fisher",
            [],
            "layer.weight: fisher needs the fisher statistics of every expert; found 0 for 2 experts",
        ),
        (
            "regmean",
            [np.eye(3), None],
            "regmean needs the gram statistics of every expert; expert 2 has none",
        ),
        ("regmean", [np.eye(3), np.eye(2)], "the statistics of expert 2 have shape [2, 2]; [3, 3] is needed"),
        (
            "fisher",
            [np.ones((2, 3)), np.ones(3)],
            "the statistics of expert 2 have shape [3]; [2, 3] is needed",
        ),
        ("fisher", [np.ones((2, 3)), -np.ones((2, 3))], "layer.weight: Fisher information below 0"),
        ("fisher", [np.full((2, 3), np.nan), np.ones((2, 3))], "the statistics of expert 1 are not finite"),
    ],
)
def test_statistics_that_do_not_fit(method: str, statistics: list[Any], sentence: str) -> None:
    base, experts = drawn((2, 3))
    with pytest.raises(CheckpointError) as fault:
        merged(method, to_merge(base, experts, (1, 1), statistics=statistics))
    assert sentence in line(fault)


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize(("place", "owner"), [(0, "the base"), (1, "expert 1"), (2, "expert 2")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(method: str, place: int, owner: str, value: float) -> None:
    base, experts = drawn((3, 4))
    weights = [base, *experts]
    weights[place][1, 2] = value
    kind = RULES[method].statistics
    statistics = [] if kind is None else [np.ones((3, 4)) if kind == "fisher" else np.eye(4)] * 2
    tensor = to_merge(weights[0], weights[1:], (1.0, 0.5), statistics=statistics)
    if not place and method in ("linear", "fisher"):
        # Averages of single weights do not read the base.
        assert np.isfinite(merged(method, tensor)).all()
        return
    with pytest.raises(CheckpointError) as fault:
        merged(method, tensor)
    assert f"layer.weight: {owner} has weights that are not finite; give an intact checkpoint" in line(fault)


def test_coefficients_that_leave_the_range_of_numbers() -> None:
    tensor = to_merge([1.0], [[1e300]], (1e300,))
    with pytest.raises(
        CheckpointError, match="task-arithmetic gives weights that are not finite; give smaller"
    ):
        merged("task-arithmetic", tensor)


def test_tensors_that_do_not_belong_together() -> None:
    with pytest.raises(CheckpointError, match=r"expert 2 has shape \[3\], the base \[2\]; give experts"):
        to_merge([1, 2], [[1, 2], [1, 2, 3]], (1, 1))
    with pytest.raises(ValueError, match="1 experts, 2 coefficients"):
        to_merge([1, 2], [[1, 2]], (1, 1))
    with pytest.raises(ValueError, match=r"found torch\.float32; rules compute in float64"):
        TensorToMerge("w", torch.zeros(2), (torch.zeros(2),), (1.0,))


def test_methods_are_found_by_name() -> None:
    assert list(RULES) == [
        *("linear", "task-arithmetic", "slerp", "nuslerp", "karcher", "ties", "breadcrumbs", "dare", "della"),
        *("model-stock", "tsv-m", "iso-c", "wudi", "fisher", "regmean"),
    ]
    for name, rule in RULES.items():
        assert rule_named(name) is rule
        assert rule.name == name
        assert any(year in rule.paper for year in map(str, range(1970, 2027)))
    with pytest.raises(
        RecipeError, match=r"there is no merge method 'tie'; allowed are linear, .*mean ties\?"
    ):
        rule_named("tie")
    with pytest.raises(RecipeError, match=r"did you mean task-arithmetic\?"):
        rule_named("task_arithmetic")


def test_names_of_options_are_mergekits_where_they_mean_the_same() -> None:
    assert option_names(RULES["breadcrumbs"]) == [
        *("lambda", "normalize", "density", "majority", "combine", "gamma")
    ]
    assert options_of(RULES["ties"], {"lambda": 2, "density": 0.5}).model_dump()["factor"] == 2
    changed = options_of(RULES["della"], {"lambda": 0.5}).but(density=0.25)
    assert changed.model_dump(by_alias=True)["lambda"] == 0.5
    assert changed.model_dump()["density"] == (0.25,)


def rows_of_the_page() -> dict[str, list[str]]:
    """Cells of the table of methods, by method."""
    page = (Path(__file__).parents[1] / "docs" / "merging.md").read_text(encoding="utf-8")
    table = page.split("### Beside")[0]
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if "| `" in row[:3]
    ]
    return {cells[0].strip("`"): cells for cells in rows}


def test_the_page_lists_every_method_with_its_options_and_defaults() -> None:
    rows = rows_of_the_page()
    assert list(rows) == list(RULES)
    for name, rule in RULES.items():
        written = dict(re.findall(r"`(\w+)`(?: \(([^;)]*))?", rows[name][3]))
        defaults: dict[str, Any] = rule.options().model_dump(by_alias=True)
        assert set(written) == set(option_names(rule)) == set(defaults)
        for option, default in defaults.items():
            value = yaml.safe_load(written[option]) if written[option] else None
            value = float(value) if option in ("tol", "learning_rate") else value
            assert value == (default[0] if isinstance(default, tuple) else default), (name, option)
        assert all(number in rows[name][4] for number in re.findall(r"arXiv ([\d.]+)", rule.paper))
