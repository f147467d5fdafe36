"""Runs that keep what is the same in every epoch. As a script, this file is the parent that kills them."""

from __future__ import annotations

import os
import re
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

from voxstrata.batches import cached
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError
from voxstrata.experiments import caching
from voxstrata.experiments.run import execute
from voxstrata.methods.adaltm.lean.front import Front
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.frozen_encoder import FrozenLayers
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
    return [line for line in said if re.match("train:|dev:|nothing is kept", line)]


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
    said = train(recipe("layer"), run)
    for line, (split, clips) in zip(said, (("train", 8), ("dev", 4)), strict=True):
        assert line.startswith(f"{split}: the front end runs once over {clips} clips; ") and "GB" in line
    assert sum(seen) == 8 + 4
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
    said = train(recipe("layer", vectors=upper_expert), run)
    assert [line.split(";")[0] for line in said] == [
        "train: the encoder up to layer 1 runs once over 8 clips",
        "dev: the encoder up to layer 1 runs once over 4 clips",
    ]
    assert_same(run, plain)
    # 36 channels of the front end take more than the 32 of layer 1, so that nothing smaller is left.
    refused = train(recipe("layer", vectors=upper_expert, cache_gb=1e-6), tight)
    assert [re.sub(".*; ", "", line) for line in refused] == [
        "the encoder up to layer 1 runs in every epoch",
        "the front end runs in every epoch",
    ] * 2
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
        (
            "layer",
            {"data": {"crop_s": 0.25}},
            ["train: random crops of 0.25 s", "dev: the front end runs once"],
        ),
        (
            "static",
            {"cache_gb": 1e-6},
            ["train: what the encoder gives for 8 clips takes", "dev: .* 4 clips"],
        ),
        (
            "layer",
            {"cache_gb": 1e-6},
            [
                f"{split}: what the front end gives for .*1e-06 GB are allowed.*the front end runs in"
                for split in ("train", "dev")
            ],
        ),
        (
            "static",
            {"training": {"epochs": None, "steps": 2}},
            ["train: no clip is used twice", "dev: the enc"],
        ),
        (
            "layer",
            {"training": {"epochs": None, "steps": 2}},
            ["train: no clip is used twice", "dev: the front end runs once"],
        ),
        (
            "layer",
            {"training": {"epochs": 2}, "vectors": "moved"},
            ["nothing is kept: the vectors asr, ser change the conv"],
        ),
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
    full = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=10))
    monkeypatch.setattr(cached, "shutil", full)
    said = train(recipe("layer", training={"epochs": 2}), RunFolder(tmp_path / "run"))
    assert [line.split(":")[0] for line in said] == ["train", "dev"]
    assert all("are free" in line and "runs in every epoch" in line for line in said)


class Crash(Exception):
    """Not one of ours."""


@pytest.mark.parametrize("granularity", ["static", "layer"])
def test_a_crash_changes_nothing(recipe, tmp_path, monkeypatch, granularity):
    path = recipe(granularity, training={"checkpoint_every_steps": 1})
    undisturbed, crashed = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "crashed")
    train(path, undisturbed)
    monkeypatch.setattr(cached, "_FILE_BYTES", 1)
    runs = []

    def dying(real):
        def computed(kept, batch):
            runs.append(len(batch))
            if len(runs) in (2, 5):
                raise Crash
            return real(kept, batch)

        return computed

    for kind in (FrozenLayers, Front):
        monkeypatch.setattr(kind, "computed", dying(kind.computed))

    def crash_at(step: int) -> Callable[[Progress], None]:
        def crash(progress: Progress) -> None:
            if progress.step == step:
                raise Crash

        return crash

    for step in (1, 3, 7):
        with pytest.raises(Crash):
            train(path, crashed, crash_at(step))
        assert any(caching.cache_folder(crashed).rglob("*.f32"))
    train(path, crashed)
    assert len(runs) == 3 + 2 + 2  # batches of train, of dev, and those that it died in
    ours, theirs = ended(crashed), ended(undisturbed)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    for split in ("dev", "test"):
        assert crashed.predictions(split).read_bytes() == undisturbed.predictions(split).read_bytes()


@pytest.mark.parametrize("granularity", ["static", "layer"])
def test_a_recording_that_changed_before_it_goes_on_is_refused(recipe, corpus_folder, tmp_path, granularity):
    run, path = RunFolder(tmp_path / "run"), recipe(granularity)

    def crash(progress: Progress) -> None:
        raise Crash

    with pytest.raises(Crash):
        train(path, run, crash)
    cut = next(iter(PreparedCorpus.load(corpus_folder).cuts("train")))
    recording = Path(cut.recording.sources[0].source)
    stamp = recording.stat().st_mtime_ns
    try:
        os.utime(recording, ns=(stamp, stamp + 10**9))
        with pytest.raises(CheckpointError, match=f"recording of clip '{cut.id}' has changed since") as told:
            train(path, run)
        assert "\n" not in str(told.value)
    finally:
        os.utime(recording, ns=(stamp, stamp))
    train(path, run)
    assert run.is_complete


def test_what_older_versions_kept_is_removed(recipe, tmp_path):
    run = RunFolder(tmp_path / "run")
    folder = caching.cache_folder(run)

    def crash(progress: Progress) -> None:
        raise Crash

    with pytest.raises(Crash):
        train(recipe("layer"), run, crash)
    known = {path.name for path in folder.iterdir()}
    (folder / "0123456789abcdef" / "ab").mkdir(parents=True)
    for name in ("states-0123", ".states-0123.77.tmp", "0123456789abcdef/ab/ab.safetensors"):
        (folder / name).write_bytes(b"old")
    seen = []
    assert not train(recipe("layer"), run, lambda _: seen.append({path.name for path in folder.iterdir()}))
    assert seen[0] == known and len(known) == 2


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
        left = 2

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def computed(kept: Any, batch: Any) -> Any:
                nonlocal left
                left -= 1
                return die() if left < 0 else real(kept, batch)

            return computed

        for kind in (FrozenLayers, Front):
            kind.computed = dying(kind.computed)  # type: ignore[method-assign]
        train(path, run)

    def at(step: int) -> Callable[[], object]:
        return lambda: train(path, run, lambda now: die() if now.step == step else None)

    cached._FILE_BYTES = 1
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
