"""mergekit's YAML: what both know is read with its meaning there, all else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from merged_files import by_hand, same, tensors
from voxstrata.errors import RecipeError
from voxstrata.merging.coefficients import Gradient, expanded
from voxstrata.merging.files import merge_request
from voxstrata.merging.parts import MergeGroups
from voxstrata.merging.request import MergeRequest, read_request

MODELS = ["runs/asr", "runs/ser"]


def read(folder: Path, **content: object) -> MergeRequest:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return read_request(folder / "config.yaml")


def models(*parameters: object) -> list[dict[str, object]]:
    return [{"model": name, "parameters": own} for name, own in zip(MODELS, parameters, strict=True)]


def given(request: MergeRequest) -> dict[str, object]:
    return {expert.path: expert.coefficients for expert in request.experts.values()}


def test_task_arithmetic_gives_the_loops_values(encoder_folder, expert_folders, tmp_path):
    """Gradients as mergekit defines them: the first value outside the layers, t = layer / (layers - "
    "1) inside."""
    listed = [
        {"model": str(expert_folders["asr"]), "parameters": {"weight": [0.0, 1.0]}},
        {"model": str(expert_folders["ser"])},
        {"model": str(encoder_folder)},
    ]
    asked = read(
        tmp_path,
        merge_method="task_arithmetic",
        base_model=str(encoder_folder),
        models=listed,
        parameters={"weight": 0.25, "int8_mask": True, "normalize": False, "lambda": 1.0},
        dtype="float32",
        tokenizer_source="base",
    )
    assert asked.options == {"normalize": False, "lambda": 1.0} and asked.dtype == "float32"
    made = merge_request(MergeRequest(asked.base, asked.experts, asked.method), tmp_path / "out")
    assert made.coefficients == {"asr": (0.0, 0.0, 1.0), "ser": (0.25, 0.25, 0.25)}
    experts = [tensors(folder) for folder in expert_folders.values()]
    wanted = by_hand(tensors(encoder_folder), experts, list(made.coefficients.values()))
    same(tensors(tmp_path / "out"), wanted, ulps=1)


@pytest.mark.parametrize(
    ("values", "layers", "wanted"),
    [
        ((2.0,), 3, [2, 2, 2, 2]),
        ((0.0, 1.0), 5, [0, 0, 0.25, 0.5, 0.75, 1]),
        ((0.0, 1.0, 0.0), 5, [0, 0, 0.5, 1, 0.5, 0]),
        ((1.0, 3.0), 1, [1, 3]),
    ],
)
def test_gradients_lie_on_straight_lines(values, layers, wanted):
    assert Gradient(values).over(layers) == pytest.approx(wanted)
    groups = MergeGroups("all", layers, 2, ("decoder.",))
    assert expanded(Gradient(values), "asr", groups)[layers + 1 :] == pytest.approx(Gradient(values).over(2))


@pytest.mark.parametrize(
    ("method", "ours", "options"),
    [
        ("ties", "ties", {"normalize": True, "density": [0.3, 0.5]}),
        ("dare_ties", "dare", {"combine": "ties", "normalize": False, "density": [0.3, 0.5]}),
        ("dare_linear", "dare", {"combine": "linear", "normalize": False, "density": [0.3, 0.5]}),
        ("breadcrumbs", "breadcrumbs", {"combine": "linear", "normalize": False, "density": [0.3, 0.5]}),
        (
            "della",
            "della",
            {"combine": "ties", "normalize": True, "density": [0.3, 0.5], "epsilon": [0.3, 0.3]},
        ),
    ],
)
def test_methods_that_thin_vectors_out(tmp_path, method, ours, options):
    asked = read(
        tmp_path,
        merge_method=method,
        base_model="base",
        models=models({"weight": 0.5, "density": 0.3}, {"weight": 1}),
        parameters={"density": 0.5},
    )
    assert (asked.base, asked.method) == ("base", ours)
    assert asked.options == options
    assert given(asked) == {"runs/asr": 0.5, "runs/ser": 1.0}


def test_averages_weigh_the_base_like_the_others(tmp_path):
    asked = read(tmp_path, merge_method="linear", models=models({"weight": 0.2}, {"weight": [0, 1]}))
    assert asked.base == "runs/asr" and given(asked) == {"runs/asr": 0.2, "runs/ser": Gradient((0.0, 1.0))}
    asked = read(
        tmp_path,
        merge_method="slerp",
        base_model="runs/asr",
        models=models({}, {}),
        parameters={"t": [0, 0.4]},
    )
    assert given(asked) == {"runs/asr": Gradient((1.0, 0.6)), "runs/ser": Gradient((0.0, 0.4))}
    asked = read(tmp_path, merge_method="karcher", models=models({}, {}), parameters={"max_iter": 20})
    assert asked.options == {"max_iter": 20, "tol": 1e-5} and set(given(asked).values()) == {1.0}
    asked = read(
        tmp_path, merge_method="nuslerp", base_model="base", models=models({"weight": 1}, {"weight": 2})
    )
    assert asked.options == {"of": "vectors"} and asked.base == "base"
    asked = read(tmp_path, merge_method="model_stock", base_model="base", models=models({}, {}))
    assert asked.method == "model-stock" and given(asked) == {"runs/asr": 1.0, "runs/ser": 1.0}


PLAIN = {"merge_method": "task_arithmetic", "base_model": "b", "models": models({"weight": 1}, {"weight": 1})}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge_method": "task_arithmatic"}, "did you mean task_arithmetic?"),
        ({"merge_method": "passthrough"}, "of mergekit's methods are read linear"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]}, "layer_range"),
        ({"modules": {}}, "has modules"),
        ({"tokenizer_source": "union"}, "tokenizers are not merged"),
        ({"chat_template": "auto"}, "has 'chat_template', which is not read here"),
        ({"base_model": None}, "has no base_model"),
        ({"models": []}, "lists no models"),
        ({"models": [{"path": "a"}]}, "give model and parameters"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, "lists the model 'a' twice"),
        ({"models": [{"model": "a"}]}, "has a model without weight"),
        ({"models": [{"model": "a+lora", "parameters": {"weight": 1}}]}, "a model with an adapter"),
        ({"models": models({"weight": 1, "density": 1}, {"weight": 1})}, "the parameter 'density'"),
        ({"models": models({"weight": "much"}, {"weight": 1})}, "'much' as weight"),
        ({"models": models({"weight": []}, {"weight": 1})}, "empty list"),
        (
            {"models": models({"weight": [{"filter": "mlp", "value": 1}, {"value": 0}]}, {"weight": 1})},
            "filters of weight",
        ),
        ({"parameters": {"lambda": [0, 1]}}, "has a list as lambda"),
        ({"parameters": {"nonsense": 1}}, "the parameter 'nonsense'"),
        ({"dtype": "int8"}, "has dtype 'int8'"),
        ({"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False}}, "nuslerp_flatten false"),
    ],
)
def test_what_has_no_equal_is_refused_in_one_line(tmp_path, changes, words):
    with pytest.raises(RecipeError, match=r"config\.yaml") as fault:
        read(tmp_path, **{**PLAIN, **changes})
    assert words in str(fault.value) and "\n" not in str(fault.value)


def test_a_filter_that_all_tensors_pass_is_understood(tmp_path):
    weights = models({"weight": [{"filter": "*", "value": 0.5}]}, {"weight": {"value": 2}})
    assert given(read(tmp_path, **{**PLAIN, "models": weights})) == {"runs/asr": 0.5, "runs/ser": 2.0}
