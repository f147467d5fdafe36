"""Trackers see what the journal has; a missing one is refused first, a failing one stops nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

import voxstrata as vs
from voxstrata.errors import VoxstrataError
from voxstrata.runs import RunFolder
from voxstrata.training import tracking


class StandIn(GeneralTracker):
    """Registered with Accelerate in the place of wandb's."""

    name = "wandb"
    requires_logging_directory = False
    opened: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    settings: ClassVar[dict[str, Any]] = {}
    rows: ClassVar[list[tuple[int, dict[str, float]]]] = []
    finished: ClassVar[list[bool]] = []
    fails: ClassVar[str] = ""

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        if self.fails == "init":
            raise RuntimeError("no key\nlog in")
        self.opened.append((run_name, options))

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings.update(values)

    def log(self, values: dict[str, float], step: int, **options: Any) -> None:
        if self.fails == "log":
            raise ConnectionError("the line is cut")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished.append(True)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    for values in (StandIn.opened, StandIn.settings, StandIn.rows, StandIn.finished):
        values.clear()
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", StandIn)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.setattr(tracking, "_is_installed", lambda name: True)
    return StandIn


def trained(base: Path, corpus: Path, out: Path, tracker: str | None, **options: Any) -> vs.Run:
    values = {
        "system": "finetune",
        "task": "ser",
        "base": base,
        "data": {"corpora": corpus, "batch_size": 4},
        "training": {"epochs": 2, "tracker": tracker},
    }
    return vs.train(values, out=out, **options)


def test_a_tracker_sees_the_journal_and_changes_nothing(encoder_folder, corpus_folder, tmp_path, stand_in):
    plain = trained(encoder_folder, corpus_folder, tmp_path / "plain", None)
    assert not stand_in.opened
    run = trained(encoder_folder, corpus_folder, tmp_path / "mine", "wandb")
    assert stand_in.opened == [("voxstrata", {"name": "mine"})] and stand_in.finished == [True]
    assert stand_in.settings["training.epochs"] == 2 and stand_in.settings["task"] == "ser"
    assert all(isinstance(value, str | int | float | bool) for value in stand_in.settings.values())
    journal = RunFolder(run.path).journal_rows()
    assert {row["kind"] for row in journal} == {"step", "validation"}
    assert [step for step, _ in stand_in.rows] == [row["step"] for row in journal]
    for (_, seen), row in zip(stand_in.rows, journal, strict=True):
        part = "train" if row["kind"] == "step" else "dev"
        assert seen[f"{part}/loss"] == row["loss"]
        assert {f"train/lr/{name}": rate for name, rate in row.get("lr", {}).items()}.items() <= seen.items()
    assert run.predictions("test") == plain.predictions("test")


def test_a_missing_package_is_one_line_before_the_work(encoder_folder, corpus_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_is_installed", lambda name: False)
    monkeypatch.setattr("voxstrata.experiments.run.Setup.of", lambda recipe: pytest.fail("work was done"))
    with pytest.raises(VoxstrataError, match="mlflow, which is not installed; pip install mlflow") as caught:
        trained(encoder_folder, corpus_folder, tmp_path / "run", "mlflow")
    assert "\n" not in str(caught.value)


def test_another_tracker_is_refused_with_those_there_are(encoder_folder, corpus_folder, tmp_path):
    with pytest.raises(VoxstrataError, match=r"tensorboard.*wandb.*mlflow.*trackio"):
        trained(encoder_folder, corpus_folder, tmp_path / "run", "comet")


def test_a_tracker_that_does_not_open_is_one_line(
    encoder_folder, corpus_folder, tmp_path, stand_in, monkeypatch
):
    monkeypatch.setattr(stand_in, "fails", "init")
    with pytest.raises(VoxstrataError, match=r"wandb cannot be opened \(RuntimeError: no key\); set"):
        trained(encoder_folder, corpus_folder, tmp_path / "run", "wandb")


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    encoder_folder, corpus_folder, tmp_path, stand_in, monkeypatch
):
    monkeypatch.setattr(stand_in, "fails", "log")
    told: list[str] = []
    run = trained(encoder_folder, corpus_folder, tmp_path / "run", "wandb", notify=told.append)
    assert run.is_complete and not stand_in.rows
    assert [line for line in told if "tracker" in line] == [
        "warning: the tracker wandb failed (ConnectionError: the line is cut); the run goes on"
    ]


def test_tensorboard_writes_into_the_run(encoder_folder, corpus_folder, tmp_path):
    """Read back by TensorBoard's own reader."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = trained(encoder_folder, corpus_folder, tmp_path / "run", "tensorboard")
    found = events.EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    losses = [row["loss"] for row in RunFolder(run.path).journal_rows("step")]
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(losses, rel=1e-6)
