"""`inspect BASE A B`: what experts changed, beside numpy's own norms, cosines, signs and ranks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from merged_files import WEIGHTS, group_of, moved, tensors
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError
from voxstrata.merging.comparison import compare_vectors, ranks_of


def run(*words: object):
    return CliRunner().invoke(app, ["inspect", *map(str, words)])


def deltas(base: Path, expert: Path, group: int) -> np.ndarray:
    """All differences of a group as one long vector, in numpy."""
    ours, theirs = tensors(base), tensors(expert)
    parts = [
        (theirs[name].double() - ours[name].double()).numpy().ravel()
        for name in sorted(ours)
        if group_of(name) == group
    ]
    return np.concatenate(parts)


def test_norms_cosines_and_signs_are_numpys(encoder_folder, expert_folders):
    asr, ser = expert_folders["asr"], expert_folders["ser"]
    found = compare_vectors(str(encoder_folder), [str(asr), str(ser)])
    assert found.labels == ("0", "1", "2", "all") and list(found.layers) == [asr.name, ser.name]
    for group in range(3):
        one, other = deltas(encoder_folder, asr, group), deltas(encoder_folder, ser, group)
        layers = [layers[group] for layers in found.layers.values()]
        assert [layer.norm for layer in layers] == pytest.approx([np.linalg.norm(one), np.linalg.norm(other)])
        (pairs,) = found.pairs.values()
        assert pairs[group].cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        both = (one != 0) & (other != 0)
        assert pairs[group].same_sign == pytest.approx(np.mean(np.sign(one[both]) == np.sign(other[both])))
    norms = [layer.norm for layer in next(iter(found.layers.values()))]
    assert norms[-1] == pytest.approx(np.sqrt(np.sum(np.square(norms[:-1]))))


def test_zero_tensors_and_low_rank_are_found_through_the_rounding_of_storage(encoder_folder, tmp_path):
    generator = torch.Generator().manual_seed(0)
    state = tensors(encoder_folder)
    low = dict(state)
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((32, 3), (3, 64)))
    low[name] = (state[name].double() + 0.01 * a @ b).float()
    expert = moved(encoder_folder, tmp_path / "low", 0)
    save_file(low, expert / WEIGHTS)
    (layers,) = compare_vectors(str(encoder_folder), [str(expert)]).layers.values()
    assert [layer.rank for layer in layers] == [0, 0, 3, 3] and layers[2].full_rank == 32
    assert layers[2].rank_99 <= 3
    assert [layer.tensors - layer.zero for layer in layers] == [0, 0, 1, 1]
    assert sum(layer.tensors for layer in layers[:-1]) == layers[-1].tensors == len(state)


@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (400, 500)])
def test_ranks_are_numpys(shape):
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(shape[0], 7, generator=generator, dtype=torch.float64)
    matrix = left @ torch.randn(7, shape[1], generator=generator, dtype=torch.float64)
    rank, held, full = ranks_of(matrix, 1e-6)
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert rank == np.linalg.matrix_rank(matrix.numpy()) == 7 and full == min(shape)
    energy = np.cumsum(values**2) / np.sum(values**2)
    assert energy[held - 1] >= 0.99 and (held == 1 or energy[held - 2] < 0.99)
    assert ranks_of(torch.zeros(4, 5, dtype=torch.float64), 0.0) == (0, 0, 4)


def test_the_command_prints_a_table_json_and_a_figure(encoder_folder, expert_folders, tmp_path):
    places = [encoder_folder, *expert_folders.values()]
    figure = tmp_path / "vectors.svg"
    done = run(*places, "--figure", figure)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["layer", "asr"] and [line.split()[0] for line in lines[1:]] == [
        "0",
        "1",
        "2",
        "all",
    ]
    assert figure.read_text().startswith("<?xml")
    rows = list(csv.DictReader(figure.with_suffix(".csv").open()))
    told = json.loads(run(*places, "--json").stdout)
    assert told["layers"] == ["0", "1", "2", "all"] and len(told["by_pair"]) == 1
    assert float(rows[1]["norm asr"]) == told["by_vector"]["asr"][1]["norm"]
    assert told["by_pair"][0]["vectors"] == ["asr", "ser"]


def test_what_cannot_be_compared_is_one_line(encoder_folder, expert_folders, tmp_path):
    assert "first" in str(run(encoder_folder, "--figure", tmp_path / "x.svg").exception)
    odd = run(encoder_folder, expert_folders["asr"], "--figure", tmp_path / "x.png").exception
    assert isinstance(odd, VoxstrataError) and "ends in .svg" in str(odd)
    stranger = run(encoder_folder, "wavlm-tiny").exception
    assert isinstance(stranger, VoxstrataError) and "\n" not in str(stranger)


@pytest.mark.parametrize(
    "words",
    [
        ("{base}", "{expert}", "{stranger}"),
        ("{stranger}", "--base", "{base}"),
        ("{base}", "{stranger}", "--ranks", "1"),
    ],
)
def test_a_stranger_is_named_and_a_fine_tune_is_not(
    encoder_folder, expert_folders, tiny_encoder, tmp_path, words
):
    tiny_encoder(seed=9).save(tmp_path / "stranger")
    places = {"base": encoder_folder, "expert": expert_folders["ser"], "stranger": tmp_path / "stranger"}
    done = run(*(word.format(**places) for word in words))
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1 and str(tmp_path / "stranger") in lines[0]
    assert "does not seem to come from this base" in lines[0]
    ours, theirs = tensors(encoder_folder), tensors(tmp_path / "stranger")
    matrices = [name for name, one in ours.items() if group_of(name) and one.ndim == 2 and one.numel() >= 256]
    found = np.median([np.corrcoef(ours[n].flatten(), theirs[n].flatten())[0, 1] for n in matrices])
    assert f"by {found:.3f}, " in lines[0]
