"""Compressed task vectors: what is kept and lost, how they are stored, what is printed of them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from test_lora import UP, Q, factors, layer, save_adapter
from test_low_rank import compressed_parts
from tiny_merges import moved, parts
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.methods.adaltm.compressed import CompressedVector
from voxstrata.methods.adaltm.task_vector import TaskVector, is_task_vector


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A base, and a LoRA adapter of rank 4 for it."""
    base, _ = parts()
    folder = tmp_path_factory.mktemp("adapter")
    pairs = factors(base.weights(), [layer(0, Q), layer(1, UP)])
    save_adapter(folder, pairs)
    return base, folder, pairs


def test_an_adapters_own_factors_are_kept(adapted):
    base, folder, pairs = adapted
    small = TaskVector.between(base, folder, allow_foreign=True).compress(rank=4)
    held = small.factored.factors
    assert set(held) == {f"{module}.weight" for module in pairs} and small.errors == pytest.approx(
        [0, 0, 0], abs=1e-7
    )
    for module, (a, b) in pairs.items():
        assert torch.equal(held[f"{module}.weight"].right, a)
        assert torch.equal(held[f"{module}.weight"].left, 2 * b)  # alpha 8 over rank 4
    assert (
        TaskVector.between(base, folder, allow_foreign=True)
        .compress(energy=0.5)
        .factored.factors[f"{layer(0, Q)}.weight"]
        .rank
        == 4
    )


def test_an_adapter_cut_to_a_smaller_rank_is_its_best_approximation(adapted):
    base, folder, _ = adapted
    vector = TaskVector.between(base, folder, allow_foreign=True)
    small = vector.compress(rank=2)
    name = f"{layer(0, Q)}.weight"
    values = torch.linalg.svdvals(vector.deltas[name].double())
    lost = (small.deltas[name].double() - vector.deltas[name].double()).norm()
    assert small.factored.factors[name].rank == 2
    assert float(lost) == pytest.approx(float(values[2:].norm()), rel=1e-5)
    assert small.errors[1] == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 5])
def test_other_matrices_lose_what_their_singular_values_lose(rank):
    _, vectors = parts()
    vector = vectors["asr"]
    small = vector.compress(rank=rank)
    lost, total = [0.0] * 3, [0.0] * 3
    for group, names in enumerate(vector.groups):
        for name in names:
            delta = vector.deltas[name].double()
            total[group] += float(delta.square().sum())
            thin = delta.ndim == 2 and rank * sum(delta.shape) < delta.numel()
            assert (name in small.factored.factors) == thin
            if thin:
                lost[group] += float(torch.linalg.svdvals(delta)[rank:].square().sum())
            else:
                assert torch.equal(small.deltas[name], vector.deltas[name])
    expected = [(part / whole) ** 0.5 for part, whole in zip(lost, total, strict=True)]
    assert small.errors == pytest.approx(expected, rel=1e-5) and min(expected[1:]) > 0.1
    assert small.nbytes < small.dense_nbytes


def test_energy_keeps_the_fewest_directions_that_hold_it():
    _, vectors = parts()
    delta = vectors["asr"].deltas["encoder.layers.0.feed_forward.output_dense.weight"]
    u, _, v = torch.linalg.svd(delta.double(), full_matrices=False)
    values = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)  # of squares 16, 25, 29, 30
    known = ((u[:, :4] * values) @ v[:4]).float()
    only = {name: torch.zeros_like(one) for name, one in vectors["asr"].deltas.items()}
    name = "encoder.layers.0.feed_forward.output_dense.weight"
    vector = replace(vectors["asr"], deltas={**only, name: known})
    ranks = {e: vector.compress(energy=e).factored.factors[name].rank for e in (0.5, 0.8, 0.9, 0.97, 1.0)}
    assert ranks == {0.5: 1, 0.8: 2, 0.9: 3, 0.97: 4, 1.0: 4}
    assert vector.compress(energy=1.0).errors == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "neither"),
        ({"rank": 2, "energy": 0.5}, "both"),
        ({"rank": 0}, "from 1"),
        ({"energy": 0.0}, "more than 0"),
        ({"energy": 1.1}, "at most 1"),
        ({"energy": float("nan")}, "at most 1"),
        ({"rank": 2.5}, "whole number"),
    ],
)
def test_compression_that_cannot_be_is_refused_in_one_line(how, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        parts()[1]["asr"].compress(**how)
    assert "\n" not in str(caught.value)


def test_a_compressed_vector_prints_in_one_line_and_is_read_as_it_was_written(tmp_path):
    base, small = compressed_parts()
    vector = small["asr"]
    assert "\n" not in repr(vector) and len(repr(vector)) < 250 and "rank" in repr(vector)
    path = tmp_path / "asr.safetensors"
    vector.save(path)
    read = TaskVector.load(path)
    assert is_task_vector(path) and isinstance(read, CompressedVector)
    assert read.errors == vector.errors and read.base_fingerprint == fingerprint(base.weights())
    assert read.deltas.keys() == vector.deltas.keys()
    assert all(torch.equal(read.deltas[name], vector.deltas[name]) for name in vector.deltas)
    plain = tmp_path / "plain.safetensors"
    vector.expanded().save(plain)
    assert path.stat().st_size < 0.7 * plain.stat().st_size


def broken_file(tmp_path, change):
    _, small = compressed_parts()
    path = tmp_path / "v.safetensors"
    small["asr"].save(path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = dict(file.metadata())
    change(tensors, about)
    save_file(tensors, path, metadata=about)
    return path


NAME = "encoder.layers.0.feed_forward.output_dense.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, about: tensors.pop(f"left:{NAME}"),
        lambda tensors, about: tensors.update({f"left:{NAME}": torch.zeros(32, 7)}),
        lambda tensors, about: tensors.update({NAME: torch.zeros(32, 64)}),
        lambda tensors, about: tensors.update({f"right:{NAME}": torch.zeros(2)}),
        lambda tensors, about: about.pop("errors"),
        lambda tensors, about: about.update(errors=json.dumps(["x"])),
        lambda tensors, about: about.update(errors=json.dumps(7)),
    ],
)
def test_a_broken_file_of_factors_is_refused_in_one_line(tmp_path, change):
    path = broken_file(tmp_path, change)
    with pytest.raises(CheckpointError, match=r"v\.safetensors") as caught:
        TaskVector.load(path)
    assert "\n" not in str(caught.value)


def inspected(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_inspect_prints_what_compression_loses_at_each_rank(adapted, tmp_path):
    base, adapter, _ = adapted
    base.save(tmp_path / "base")
    expert = copy.deepcopy(base)
    for name, parameter in expert.model.named_parameters():
        parameter.data += 0.1 * moved(base, 7).deltas[name]
    expert.save(tmp_path / "expert")
    done = inspected(tmp_path / "base", tmp_path / "expert", adapter, "--ranks", "1,3,500", "--json")
    assert done.exit_code == 0, done.output
    for told, place in zip(json.loads(done.stdout)["vectors"], (tmp_path / "expert", adapter), strict=True):
        vector = TaskVector.between(base, place, allow_foreign=True)
        for row in told["ranks"]:
            small = vector.compress(rank=row["rank"])
            assert row["relative_error"] == pytest.approx(small.errors, abs=1e-6)
            assert row["energy"] == pytest.approx([1 - error**2 for error in small.errors], abs=1e-6)
            assert row["megabytes"] == pytest.approx(small.nbytes / 1e6)
        assert told["megabytes"] == pytest.approx(small.dense_nbytes / 1e6)
    printed = inspected(tmp_path / "base", tmp_path / "expert", "--ranks", "1, 3").output
    assert "rank 1" in printed and "whole" in printed and "\n  all" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "b", "--ranks", "x"), "no ranks"),
        (("a", "b", "--ranks", "0"), "no ranks"),
        (("a", "b", "--ranks", ""), "no ranks"),
        (("a", "--ranks", "1"), "needs a base and an expert"),
        (("a", "b", "--ranks", "1", "--figure", "f.svg"), "leave one of them out"),
    ],
)
def test_ranks_that_cannot_be_are_refused_in_one_line(arguments, said):
    fault = inspected(*arguments).exception
    assert isinstance(fault, VoxstrataError) and said in str(fault) and "\n" not in str(fault)
