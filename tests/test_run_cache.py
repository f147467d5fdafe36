"""Runs that keep what is the same in every epoch. As a script, this file is the parent that kills them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from voxstrata.backbone.encoder import load_backbone
from voxstrata.experiments import caching
from voxstrata.experiments.run import execute
from voxstrata.methods import cached_states
from voxstrata.methods.adaltm.lean.front_cache import FrontCache
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import read_recipe
from voxstrata.reporting import page
from voxstrata.runs import RunFolder
from voxstrata.training.progress import Progress

EPOCHS, STEPS = 4, 12


@pytest.fixture(scope="module")
def experts(tiny_encoder, tmp_path_factory) -> dict[str, str]:
    """Two experts with the base's convolutional front end."""
    folders = {}
    for seed, name in enumerate(("asr", "ser")):
        encoder, generator = tiny_encoder(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in encoder.model.encoder.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        folders[name] = str(tmp_path_factory.mktemp("fixed-front") / name)
        encoder.save(Path(folders[name]))
    return folders


@pytest.fixture(autouse=True)
def no_report(monkeypatch) -> None:
    """Reports take longer than everything else here."""
    monkeypatch.setattr(page, "write_report", lambda run: None)


@pytest.fixture
def recipe(encoder_folder, corpus_folder, experts, tmp_path) -> Callable[..., Path]:
    """A function of what differs: the path of a recipe."""

    def write(granularity: str = "static", name: str = "recipe", **changes: Any) -> Path:
        training = {"epochs": EPOCHS} | changes.pop("training", {})
        data = {"corpora": [{"path": str(corpus_folder)}], "batch_size": 3} | changes.pop("data", {})
        values = {
            "system": "adaltm", "base": str(encoder_folder), "vectors": experts, "granularity": granularity,
            "rates": {"coefficients": 1e-2, "layer_weights": 1e-2, "head": 1e-2},
            "data": data, "training": training, **changes,
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / f"{name}.yaml"

    return write


def train(path: Path, run: RunFolder, progress: Callable[[Progress], None] | None = None) -> list[str]:
    """Executes a recipe; the lines it said about what is kept."""
    said: list[str] = []
    execute(read_recipe(path), run, notify=said.append, progress=progress)
    return [line for line in said if re.match("train:|dev:|train and dev:|the vectors", line)]


def ended(run: RunFolder) -> dict[str, torch.Tensor]:
    weights = load_file(run.model / "head.safetensors")
    return weights | {
        "last": load_file(run.model / "encoder" / "model.safetensors")["encoder.layer_norm.weight"]
    }


def counted(monkeypatch, owner: type, name: str) -> list[int]:
    """Clips of each call of a method that takes waveforms and lengths."""
    seen: list[int] = []
    real = getattr(owner, name)

    def call(self, waveforms, lengths, *rest):
        seen.append(len(lengths))
        return real(self, waveforms, lengths, *rest)

    monkeypatch.setattr(owner, name, call)
    return seen


def assert_same(run: RunFolder, expected: RunFolder) -> None:
    for name, tensor in ended(expected).items():
        torch.testing.assert_close(ended(run)[name], tensor, atol=2e-4, rtol=1e-3, msg=name)
    for split in ("dev", "test"):
        ours, theirs = (read_predictions(r.predictions(split)) for r in (run, expected))
        assert [row.id for row in ours] == [row.id for row in theirs] and len(ours) == 4
        for row, other in zip(ours, theirs, strict=True):
            assert row.probabilities == pytest.approx(other.probabilities, abs=2e-4)
    assert not caching.cache_folder(run).exists()


@pytest.mark.parametrize("vectors", ["two", "none"])
def test_the_encoder_of_a_static_merge_runs_once_over_a_clip(recipe, experts, tmp_path, monkeypatch, vectors):
    changes = {} if vectors == "two" else {"vectors": {}}
    plain, run = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "kept")
    assert train(recipe(cache_gb=0, **changes), plain) == []
    seen = counted(monkeypatch, MergedBackbone, "forward")
    said = train(recipe(**changes), run)
    assert [line.split(":")[0] for line in said] == ["train", "dev"]
    assert all("states are kept" in line and "GB" in line for line in said)
    assert sum(seen) == 8 + 4 + 4  # train, dev, test
    assert_same(run, plain)


def test_the_front_end_of_a_learned_merge_runs_once_over_a_clip(recipe, tmp_path, monkeypatch):
    plain, run = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "kept")
    assert train(recipe("layer", cache_gb=0), plain) == []
    seen = counted(monkeypatch, MergedBackbone, "front")
    (line,) = train(recipe("layer"), run)
    assert "front end runs once over 12 clips" in line and "GB" in line
    assert seen == [1] * 12
    assert_same(run, plain)
    coefficients = [(r.model / "coefficients.json").read_text() for r in (run, plain)]
    learned, expected = (torch.tensor(yaml.safe_load(text)["coefficients"]) for text in coefficients)
    torch.testing.assert_close(learned, expected, atol=2e-4, rtol=1e-3)
    assert ((learned[1:] - 0.5).abs() > 1e-3).all()


@pytest.fixture
def upper_expert(tiny_encoder, tmp_path) -> dict[str, str]:
    """An expert that was trained in the last of two layers only."""
    encoder = tiny_encoder()
    with torch.no_grad():
        for parameter in encoder.model.encoder.layers[1].parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    encoder.save(tmp_path / "upper")
    return {"ser": str(tmp_path / "upper")}


def test_lower_layers_that_no_vector_changes_run_once_over_a_clip(recipe, upper_expert, tmp_path):
    plain, run, tight = (RunFolder(tmp_path / name) for name in ("plain", "kept", "tight"))
    assert train(recipe("layer", cache_gb=0, vectors=upper_expert), plain) == []
    (line,) = train(recipe("layer", vectors=upper_expert), run)
    assert "the encoder up to layer 1 runs once over 12 clips" in line
    assert_same(run, plain)
    # 36 channels of the front end take more than the 32 of layer 1, so that nothing smaller is left.
    refused = train(recipe("layer", vectors=upper_expert, cache_gb=1e-6), tight)
    assert [re.sub(".*; ", "", line) for line in refused] == [
        "the encoder up to layer 1 runs in every epoch",
        "the front end runs in every epoch",
    ]
    assert_same(tight, plain)


def test_in_bf16_predictions_are_still_made_in_float32(recipe, tmp_path, monkeypatch):
    seen = counted(monkeypatch, MergedBackbone, "forward")
    run = RunFolder(tmp_path / "kept")
    train(recipe(training={"precision": "bf16"}), run)
    assert sum(seen) == 8 + 4 + 4 + 4  # dev again


@pytest.mark.parametrize(
    ("granularity", "changes", "expected"),
    [
        (
            "static",
            {"data": {"crop_s": 0.25}},
            ["train: random crops of 0.25 s", "dev: the encoder runs once"],
        ),
        ("layer", {"data": {"crop_s": 0.25}}, ["train: random crops of 0.25 s"]),
        (
            "static",
            {"cache_gb": 1e-6},
            ["train: the encoder's pooled states of 8 clips take", "dev: .* 4 clips"],
        ),
        (
            "layer",
            {"cache_gb": 1e-6},
            ["train and dev: the front of .*the budget is 1e-06 GB.*the front end runs in"],
        ),
        (
            "static",
            {"training": {"epochs": None, "steps": 2}},
            ["train: no clip is used twice", "dev: the enc"],
        ),
        ("layer", {"training": {"epochs": None, "steps": 2}}, ["train: no clip is used twice"]),
        ("layer", {"training": {"epochs": 2}, "vectors": "moved"}, ["the vectors change the conv"]),
    ],
)
def test_what_cannot_be_kept_is_said_and_the_run_goes_on(
    recipe, expert_folders, tmp_path, granularity, changes, expected
):
    if changes.get("vectors") == "moved":
        changes = changes | {"vectors": {name: str(folder) for name, folder in expert_folders.items()}}
    run = RunFolder(tmp_path / "run")
    said = train(recipe(granularity, **changes), run)
    assert len(said) == len(expected)
    for line, pattern in zip(said, expected, strict=True):
        assert re.match(pattern, line), line
        assert "\n" not in line
    assert run.is_complete


def test_a_full_disk_is_said_and_the_run_goes_on(recipe, tmp_path, monkeypatch):
    full = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=10), rmtree=shutil.rmtree)
    monkeypatch.setattr(caching, "shutil", full)
    (line,) = train(recipe("layer", training={"epochs": 2}), RunFolder(tmp_path / "run"))
    assert "are free" in line and "runs in every epoch" in line


def test_no_bit_of_a_kept_front_end_depends_on_the_other_clips(encoder_folder, tmp_path):
    merged = MergedBackbone(load_backbone(encoder_folder, normalize=True), {})
    # Sums over padding of another width round otherwise, in some of the clips.
    lengths = torch.tensor([40_003, *range(17_777, 4_000, -1_500)])
    names = tuple(map(str, lengths.tolist()))
    waveforms = 0.1 * torch.randn(len(lengths), 40_003, generator=torch.Generator().manual_seed(0))
    waveforms *= torch.arange(40_003) < lengths[:, None]
    together, alone = (FrontCache(merged, tmp_path / name, budget_bytes=10**8) for name in "ab")
    alone.features(names[:1], waveforms[:1], lengths[:1])
    expected = together.features(names, waveforms, lengths)
    assert torch.equal(alone.features(names, waveforms, lengths), expected)


class Crash(Exception):
    """Not one of ours."""


@pytest.mark.parametrize("granularity", ["static", "layer"])
def test_a_crash_changes_nothing(recipe, tmp_path, monkeypatch, granularity):
    path = recipe(granularity, training={"checkpoint_every_steps": 1})
    undisturbed, crashed = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "crashed")
    train(path, undisturbed)
    written: list[str] = []
    real = FrontCache._write

    def dies_when_a_batch_is_half_written(self, clip, *rest):
        real(self, clip, *rest)
        written.append(clip)
        if len(written) in (2, 5):
            raise Crash

    monkeypatch.setattr(FrontCache, "_write", dies_when_a_batch_is_half_written)

    def crash_at(step: int) -> Callable[[Progress], None]:
        def crash(progress: Progress) -> None:
            if progress.step == step:
                raise Crash

        return crash

    for step in (1, 3, 7):
        with pytest.raises(Crash):
            train(path, crashed, crash_at(step))
        assert any(caching.cache_folder(crashed).rglob("*"))
    train(path, crashed)
    ours, theirs = ended(crashed), ended(undisturbed)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    for split in ("dev", "test"):
        assert crashed.predictions(split).read_bytes() == undisturbed.predictions(split).read_bytes()


def in_child(work: Callable[[], object]) -> int:
    """Runs work in a process of its own; what it died of, or its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as fault:
            print(repr(fault), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_again_and_again(path: Path, run: RunFolder) -> None:
    """Kills a run while states or features are written and in the middle of training, then lets it end."""

    def while_writing() -> None:
        real = cached_states.FrozenLayers.rows
        left = 2

        def rows(*given: Any, **how: Any) -> Any:
            nonlocal left
            left -= 1
            return die() if left < 0 else real(*given, **how)

        cached_states.FrozenLayers.rows = rows
        before, written = FrontCache._write, []

        def write(self: FrontCache, clip: str, *given: Any) -> None:
            before(self, clip, *given)
            written.append(clip)
            if len(written) == 5:
                die()

        FrontCache._write = write  # type: ignore[method-assign]
        train(path, run)

    def at(step: int) -> Callable[[], object]:
        return lambda: train(path, run, lambda now: die() if now.step == step else None)

    outcomes = [in_child(while_writing), *(in_child(at(step)) for step in (2, 5, 9))]
    outcomes += [in_child(lambda: train(path, run))]
    print(" ".join(map(str, outcomes)))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are made by fork")
@pytest.mark.parametrize("granularity", ["static", "layer"])
def test_killed_at_any_moment_it_ends_with_the_same_weights(recipe, tmp_path, granularity):
    path = recipe(granularity, training={"checkpoint_every_steps": 1})
    undisturbed, killed = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "killed")
    train(path, undisturbed)
    done = subprocess.run(
        [sys.executable, __file__, str(path), str(killed.path)], capture_output=True, text=True, timeout=200
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 4 + ["0"], done.stderr
    ours, theirs = ended(killed), ended(undisturbed)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    losses = [[row["loss"] for row in r.journal_rows("step")] for r in (killed, undisturbed)]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS


if __name__ == "__main__":
    kill_again_and_again(Path(sys.argv[1]), RunFolder(Path(sys.argv[2])))
