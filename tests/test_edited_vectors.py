"""Merges whose vectors a rule edits once, before their coefficients are learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from tiny_merges import batch, by_hand, moved, parts, score
from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.experiments.run import execute
from voxstrata.merging.rules.registry import RULES
from voxstrata.merging.rules.rule import NoOptions, Rule, TensorToMerge, VectorRule
from voxstrata.methods.adaltm.held import edited_vectors
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder


class Agreeing(VectorRule[NoOptions]):
    """Keeps what all vectors move in one direction, at its mean."""

    name = "agreeing"
    paper = "none"

    def edited(self, tensor: TensorToMerge, options: NoOptions) -> list[Tensor]:
        assert tensor.base.dtype == torch.float64 and tensor.coefficients == (1.0,) * len(tensor.experts)
        deltas = torch.stack(tensor.deltas)
        agree = (deltas.sign() == deltas[0].sign()).all(0)
        return [deltas.mean(0) * agree for _ in deltas]


class Drawn(VectorRule[NoOptions]):
    """Drops half of each vector at random."""

    name = "drawn"
    paper = "none"

    def edited(self, tensor: TensorToMerge, options: NoOptions) -> list[Tensor]:
        return [
            delta * (torch.rand(delta.shape, generator=tensor.generator(k)) < 0.5)
            for k, delta in enumerate(tensor.deltas)
        ]


class Highest(Rule[NoOptions]):
    """Adds no vectors."""

    name = "highest"
    paper = "none"

    def merge(self, tensor: TensorToMerge, options: NoOptions) -> Tensor:
        return torch.stack(tensor.experts).amax(0)

    combined = merge


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for rule in (Agreeing(), Drawn(), Highest()):
        monkeypatch.setitem(RULES, rule.name, rule)


def agreeing(vectors: dict[str, TaskVector]) -> dict[str, TaskVector]:
    """The same edit by numpy, in float64 from start to end."""
    edited: dict[str, dict[str, Tensor]] = {name: {} for name in vectors}
    for tensor in next(iter(vectors.values())).deltas:
        values = np.stack([vector.deltas[tensor].double().numpy() for vector in vectors.values()])
        agree = (values > 0).all(0) | (values < 0).all(0)
        mean = np.where(agree, values.mean(0), 0.0)
        for deltas in edited.values():
            deltas[tensor] = torch.from_numpy(np.asarray(mean)).float()
    first = next(iter(vectors.values()))
    return {name: TaskVector(deltas, first.base_fingerprint, name) for name, deltas in edited.items()}


@pytest.mark.parametrize("engine", ["plain", "lean"])
def test_states_and_gradients_are_those_of_the_edited_vectors(engine: str) -> None:
    base, vectors = parts()
    merged = MergedBackbone(base, vectors, rule="agreeing", engine=engine)  # type: ignore[arg-type]
    with torch.no_grad():
        merged.coefficients.copy_(torch.linspace(-0.4, 1.3, merged.coefficients.numel()).view(-1, 2))
    waveforms, lengths = batch()
    expected, _, gradient = by_hand(base, agreeing(vectors), merged.coefficients.detach(), waveforms, lengths)
    states = merged(waveforms, lengths)
    loss = score(states.layers, states.lengths)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert (merged.coefficients.grad - gradient).abs().max() < 1e-4 * gradient.abs().max()
    plain, _, _ = by_hand(base, vectors, merged.coefficients.detach(), waveforms, lengths)
    assert abs(float(plain - expected)) > 1e-2 * abs(float(expected))


def test_the_given_vectors_stay_as_they_are_and_the_default_takes_them_so() -> None:
    base, vectors = parts()
    before = {name: dict(vector.deltas) for name, vector in vectors.items()}
    MergedBackbone(base, vectors, rule="agreeing")
    for name, deltas in before.items():
        assert all(vectors[name].deltas[tensor] is delta for tensor, delta in deltas.items())
    held = MergedBackbone(base, vectors).task_vectors()
    for name, deltas in before.items():
        assert all(held[name].deltas[tensor] is delta for tensor, delta in deltas.items() if delta.any())


def test_edits_are_made_in_float64_and_rounded_once_to_what_is_held() -> None:
    base, vectors = parts()
    held = MergedBackbone(base, vectors, rule="agreeing", dtype=torch.bfloat16).task_vectors()
    edited = 0
    for name in vectors:
        for tensor, delta in held[name].deltas.items():
            values = torch.stack([vector.deltas[tensor].double() for vector in vectors.values()])
            exact = values.mean(0) * (values.sign() == values[0].sign()).all(0)
            assert delta.dtype == torch.bfloat16 and torch.equal(delta, exact.to(torch.bfloat16))
            edited += 1
    assert edited > 60


def test_what_only_some_vectors_change_is_edited_with_zeros_for_the_others() -> None:
    base, _ = parts()
    names = [name for name in base.weights() if name.startswith("encoder.layers.1.")]
    vector = moved(base, 1, only="encoder.layers.")
    lacking = TaskVector({n: d for n, d in vector.deltas.items() if n in names}, vector.base_fingerprint, "b")
    merged = MergedBackbone(base, {"a": vector, "b": lacking}, rule="agreeing")
    for held in merged.task_vectors().values():
        assert sorted(held.deltas) == sorted(names)
        assert all(torch.equal(delta, vector.deltas[name]) for name, delta in held.deltas.items())
    assert merged.fixed_layers == 1  # of the edited vectors, not of the given ones


def test_random_edits_follow_from_seed_and_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    base, vectors = parts()

    def drawn(seed: int) -> dict[str, Tensor]:
        found = edited_vectors(vectors, base, "drawn", seed=seed)
        return dict(found["asr"].deltas)

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    large = [name for name, delta in first.items() if delta.numel() >= 1024]
    assert large and not any(torch.equal(first[name], other[name]) for name in large)
    masks = {name: first[name] != 0 for name in large if first[name].shape == first[large[-1]].shape}
    assert len(masks) > 1 and len({mask.numpy().tobytes() for mask in masks.values()}) == len(masks)
    shuffled = dict(reversed(list(base.weights().items())))
    monkeypatch.setattr(base, "weights", lambda: shuffled)
    found = drawn(0)
    assert [*found] != [*first] and all(torch.equal(found[name], delta) for name, delta in first.items())


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("highest", "coefficients of the merge rule 'highest' cannot be learned, since it does not add task"),
        ("lowest", "there is no merge rule 'lowest'"),
    ],
)
def test_other_rules_are_refused_with_what_is_allowed(tmp_path: Path, rule: str, found: str) -> None:
    base, vectors = parts()
    (tmp_path / "recipe.yaml").write_text(f"system: adaltm\nrule: {rule}\ntraining: {{epochs: 1}}\n")
    for kind, build in (
        (CheckpointError, lambda: MergedBackbone(base, vectors, rule=rule)),
        (RecipeError, lambda: read_recipe(tmp_path / "recipe.yaml")),
    ):
        with pytest.raises(kind) as told:
            build()
        assert found in str(told.value) and "\n" not in str(told.value)
        allowed = str(told.value).partition("allowed are ")[2].split(", ")
        assert {"task-arithmetic", "agreeing", "drawn"} <= set(allowed) and "highest" not in allowed


def test_twins_share_the_edited_vectors_and_short_forms_name_the_rule() -> None:
    base, vectors = parts()
    merged = MergedBackbone(base, vectors, rule="agreeing")
    twin = merged.twin()
    assert twin.rule == "agreeing" and twin._deltas is merged._deltas
    assert repr(merged).endswith("lean, agreeing)")
    assert repr(MergedBackbone(base, vectors)).endswith("lean)")


def test_a_run_learns_coefficients_of_edited_vectors(
    tmp_path: Path, encoder_folder: Path, expert_folders: dict[str, Path], corpus_folder: Path
) -> None:
    values = {
        "system": "adaltm", "base": str(encoder_folder), "rule": "agreeing",
        "vectors": {name: str(folder) for name, folder in expert_folders.items()},
        "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 4}, "training": {"epochs": 1},
        "rates": {"coefficients": 1e-2},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    run = RunFolder(tmp_path / "run")
    execute(read_recipe(tmp_path / "recipe.yaml"), run)
    learned = json.loads((run.model / "coefficients.json").read_text())
    assert learned["rule"] == "agreeing"
    # Both vectors are the same after this edit, so that all gradients of their coefficients are, too.
    rows = torch.tensor(learned["coefficients"])
    assert torch.equal(rows[:, 0], rows[:, 1]) and ((rows - 0.5).abs() > 1e-3).all()
