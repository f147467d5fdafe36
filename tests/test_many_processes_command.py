"""The command under torchrun: the run of one process, faults and signals; and tables in parts."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import two_processes
from two_processes import launch, tiny_encoder
from voxstrata.runs import RunFolder


@pytest.fixture(scope="module")
def recipe(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AdaLTM over experts that share the base's front end: 8 training clips in batches of 3."""
    folder = tmp_path_factory.mktemp("recipe")
    tiny_encoder().save(folder / "base")
    for seed, name in enumerate(("asr", "ser")):
        encoder, generator = tiny_encoder(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in encoder.model.encoder.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        encoder.save(folder / name)
    values = {
        "system": "adaltm",
        "base": str(folder / "base"),
        "vectors": {name: str(folder / name) for name in ("asr", "ser")},
        "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 3},
        "training": {"epochs": 3},
        "rates": {"coefficients": 1e-2},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def command(recipe: Path, out: str, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """`voxstrata train` in two processes."""
    arguments = ["train", str(recipe), *overrides, "--out", out]
    return launch([two_processes.__file__, "command", *arguments], recipe.parent, **environment)


def assert_equal_runs(ours: RunFolder, theirs: RunFolder) -> None:
    for file in ("head.safetensors", "encoder/model.safetensors"):
        tensors, expected = load_file(ours.model / file), load_file(theirs.model / file)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)
    for split in ("dev", "test"):
        rows, others = (
            [json.loads(line) for line in run.predictions(split).read_text().splitlines()]
            for run in (ours, theirs)
        )
        assert [row["id"] for row in rows] == [row["id"] for row in others]
        for row, other in zip(rows, others, strict=True):
            assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert ours.is_complete and not ours.checkpoints.exists()


@pytest.mark.parametrize("granularity", ["layer", "static"])
def test_the_command_in_two_processes_leaves_the_run_of_one(
    recipe: Path, granularity: str, tmp_path: Path
) -> None:
    from voxstrata.experiments.run import execute
    from voxstrata.recipes.reading import read_recipe

    values = [f"granularity={granularity}", *(["vectors={}"] if granularity == "static" else [])]
    alone = RunFolder(tmp_path / "alone")
    execute(read_recipe(str(recipe), values), alone)
    writes = tmp_path / "writes"
    started = command(recipe, str(tmp_path / "together"), *values, WRITES=str(writes))
    out, err = started.communicate(timeout=200)
    assert started.returncode == 0, err
    together = RunFolder(tmp_path / "together")
    assert f"model:  {together.model}" in out.splitlines()
    assert sum(line.startswith("report: ") for line in out.splitlines()) == 1
    assert err.count("waveforms are normalised") == 1
    kept = [line.split() for line in writes.read_text().splitlines()]
    # Three batches of training clips, two of dev clips; the first of each by the first process.
    assert len({name for _, name in kept}) == len(kept) == 5
    assert sorted(rank for rank, _ in kept) == ["0", "0", "0", "1", "1"]
    assert_equal_runs(together, alone)
    assert json.loads(together.provenance.read_text())["processes"] == 2


def lines(err: str) -> list[str]:
    """What was said to the user; the launcher's own report begins with a date or a traceback."""
    return [line for line in err.splitlines() if line.startswith("voxstrata: ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("error", "voxstrata: process 1 of 2: cannot read x.wav"),
        ("killed", "voxstrata: another process of this training ended"),
    ],
)
def test_a_fault_in_one_process_ends_all_with_one_line(
    recipe: Path, tmp_path: Path, fault: str, message: str
) -> None:
    out = tmp_path / "run"
    begun = time.monotonic()
    _, err = (started := command(recipe, str(out), FAULT=fault)).communicate(timeout=200)
    assert started.returncode != 0 and time.monotonic() - begun < 100
    assert len(lines(err)) == 1 and lines(err)[0].startswith(message), err
    _, err = (started := command(recipe, str(out))).communicate(timeout=200)
    assert started.returncode == 0, err
    _, err = (started := command(recipe, str(tmp_path / "undisturbed"))).communicate(timeout=200)
    assert_equal_runs(RunFolder(out), RunFolder(tmp_path / "undisturbed"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_stops_after_a_checkpoint(
    recipe: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = RunFolder(tmp_path / "run")
    started = command(recipe, str(run.path), PAUSE="0.5")
    while len(run.journal_rows("step")) < 2 and started.poll() is None:
        time.sleep(0.1)
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode != 0
    assert len(lines(err)) == 1 and "voxstrata: stopped after step" in err, err
    (checkpoint,) = run.checkpoints.iterdir()
    assert int(checkpoint.name.split("-")[1]) == run.journal_rows("step")[-1]["step"] < 9
    _, err = (started := command(recipe, str(run.path))).communicate(timeout=200)
    assert started.returncode == 0, err
    assert [row["step"] for row in run.journal_rows("step")] == list(range(1, 10))
