"""`train` says where it stands while it works, and at its end what it came to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from voxstrata.cli.main import app
from voxstrata.cli.outcome import outcome, outcome_warnings
from voxstrata.cli.program import program
from voxstrata.cli.progress import Lines, bar
from voxstrata.experiments import run as run_module
from voxstrata.methods.baselines import finetune
from voxstrata.methods.cuts import cuts_of, limited
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder, write_json
from voxstrata.training.progress import Progress


@pytest.fixture
def recipe(
    tmp_path: Path, corpus_folder: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A recipe of six steps in three epochs, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    values = {
        "system": "finetune",
        "task": "ser",
        "base": str(encoder_folder),
        "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 4},
        "training": {"epochs": 3},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def train(recipe: Path, *overrides: str) -> Result:
    return CliRunner().invoke(app, ["train", str(recipe), *overrides])


def test_the_end_tells_scores_best_epoch_and_places(recipe: Path) -> None:
    done = train(recipe)
    assert done.exit_code == 0, done.output
    run = RunFolder(Path("runs/mine"))
    lines = done.stdout.splitlines()
    metrics = json.loads(run.metrics.read_text())
    for split, line in zip(("dev", "test"), lines, strict=False):
        uar = metrics[split]["emotion"]["uar"]
        low, high = uar["speaker"]
        assert line.startswith(f"{split}:")
        assert f"UAR {100 * uar['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in line
        assert line.endswith("(4 clips, 2 speakers)")
    assert "by speaker" in lines[2]
    losses = {row["epoch"] + 1: row["loss"] for row in run.journal_rows("validation")}
    best = min(losses, key=lambda epoch: losses[epoch])
    place = f"best:   epoch {best} of 3, step {2 * best} of 6"
    assert f"{place}, with the lowest validation loss, {losses[best]:.3f}" in lines
    assert "model:  runs/mine/model" in lines and "report: runs/mine/report.html" in lines
    assert all(
        Path(line.partition(":")[2].strip()).exists() for line in lines if line[:5] in ("model", "repor")
    )


def test_for_programs_the_same_is_one_object(recipe: Path) -> None:
    done = train(recipe, "--json", "--limit", "3")
    assert done.exit_code == 0, done.output
    run, told = RunFolder(Path("runs/mine")), json.loads(done.stdout)
    assert told["metrics"] == json.loads(run.metrics.read_text())
    assert (told["run"], told["model"], told["report"]) == (
        "runs/mine",
        "runs/mine/model",
        "runs/mine/report.html",
    )
    lowest = min((row for row in run.journal_rows("validation")), key=lambda row: row["loss"])
    assert told["lowest_validation_loss"] == {"step": lowest["step"], "loss": lowest["loss"]}
    assert told["steps"] == 3, "three clips, one batch an epoch"


def test_a_limit_takes_the_same_clips_of_each_split(
    recipe: Path, tmp_path: Path, corpus_folder: Path
) -> None:
    assert train(recipe, "--limit", "3", "--out", "a").exit_code == 0
    resolved = yaml.safe_load(RunFolder(Path("a")).recipe.read_text())
    assert [use["limit"] for use in resolved["data"]["corpora"]] == [3]
    whole, few = read_recipe(recipe), limited(read_recipe(recipe), 3)
    for split in ("train", "dev", "test"):
        all_ids, ids = ([cut.id for cut in cuts_of(one, split)] for one in (whole, few))
        by_hash = sorted(all_ids, key=lambda name: hashlib.sha256(f"limit/{name}".encode()).digest()[:8])
        assert set(ids) == set(by_hash[:3]) and len(ids) == 3 < len(all_ids)
        assert ids == [name for name in all_ids if name in ids]
    assert limited(whole, 10**6).data.corpora[0].limit == 10**6


def test_the_command_that_is_shown_last_works_as_typed(recipe: Path, recordings: list[Path]) -> None:
    (line,) = [line for line in train(recipe).stdout.splitlines() if line.startswith("try it: ")]
    typed = line.removeprefix("try it: ").replace("PATH/TO/RECORDINGS", str(recordings[0]))
    done = subprocess.run(typed, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(recordings[0]) in done.stdout or "0.wav" in done.stdout


def test_a_finished_run_says_so_and_ends_alike(recipe: Path) -> None:
    first, again = train(recipe), train(recipe)
    assert again.exit_code == 0 and again.stdout == first.stdout
    assert "runs/mine is done already" in again.stderr and "done already" not in first.stderr


class Killed(Exception):
    """Stands for the end of the process."""


def stopped(recipe: Path, at: int) -> None:
    def die(now: Progress) -> None:
        if now.step == at:
            raise Killed

    with pytest.raises(Killed):
        run_module.execute(read_recipe(recipe), RunFolder(Path("runs/mine")), progress=die)


def test_a_resumed_run_says_at_which_step_of_how_many(recipe: Path) -> None:
    stopped(recipe, at=3)
    done = train(recipe)
    assert done.exit_code == 0, done.output
    # The last checkpoint was that of the first epoch's end.
    assert done.stderr.splitlines().count("resumed at step 2 of 6") == 1
    assert "resumed" not in train(recipe).stderr


def test_a_run_that_died_before_its_first_step_is_not_called_resumed(recipe: Path) -> None:
    stopped(recipe, at=1)
    assert "resumed" not in train(recipe).stderr


def test_a_run_that_died_after_its_last_step_says_so(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(finetune.METHOD, "save", die)
        run_module.execute(read_recipe(recipe), RunFolder(Path("runs/mine")))
    done = train(recipe)
    assert done.exit_code == 0 and "resumed at step 6, which was the last one" in done.stderr


def test_a_share_of_the_steps_is_the_warm_up(recipe: Path) -> None:
    assert train(recipe, "training.warmup=0.5", "training.schedule=linear").exit_code == 0
    rates = [row["lr"]["head"] for row in RunFolder(Path("runs/mine")).journal_rows("step")]
    assert rates == pytest.approx([1e-4 * share for share in (1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3)])


def test_weights_that_are_not_the_best_ones_are_named(recipe: Path) -> None:
    assert train(recipe).exit_code == 0
    run = RunFolder(Path("runs/mine"))
    lowest = next(line for line in outcome(run) if line.startswith("best:"))
    rows = run.journal_rows()
    for row in rows:
        row["best"] = row.get("kind") == "validation" and row["step"] == 4
    run.journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = yaml.safe_load(run.recipe.read_text())
    values["training"]["keep_best"] = False
    run.recipe.write_text(yaml.safe_dump(values))
    changed = next(line for line in outcome(run) if line.startswith("best:"))
    assert "kept are the weights of the last step" in changed and "epoch 2 of 3, step 4 of 6" in changed
    assert "last step" not in lowest
    run.journal.write_text("".join(json.dumps(row) + "\n" for row in rows if row["kind"] == "step"))
    assert "best:   the last of 6 steps, as there are no dev clips to choose by" in list(outcome(run))


def test_warnings_of_the_scores_come_last_and_loudly(recipe: Path) -> None:
    assert train(recipe).exit_code == 0
    run = RunFolder(Path("runs/mine"))
    metrics = json.loads(run.metrics.read_text())
    metrics["dev"]["warnings"], metrics["test"]["warnings"] = [], ["all clips are answered fear"]
    write_json(run.metrics, metrics)
    assert list(outcome_warnings(run)) == ["test: all clips are answered fear"]
    again = train(recipe)
    assert again.stderr.splitlines()[-1] == "warning: test: all clips are answered fear"
    assert "warning" not in again.stdout


def test_words_and_answers_of_further_tasks_are_shown(tmp_path: Path) -> None:
    metric = {"value": 0.25, "iid": [0.2, 0.3], "speaker": None}
    run = RunFolder(tmp_path)
    write_json(
        run.metrics,
        {
            "test": {
                "clips": 1200,
                "speakers": 0,
                "transcript": {"wer": metric},
                "classes": {"gender": {"uar": metric | {"value": 1.0}}},
                "warnings": [],
            }
        },
    )
    lines = list(outcome(run))
    assert lines[0].endswith("WER 25.0 [20.0, 30.0]   UAR gender 100.0 [20.0, 30.0]   (1,200 clips)")
    assert lines[1].strip() == "percent, 95 % intervals by clip"
    assert not any(line.startswith(("try it", "model", "best")) for line in lines)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_off_a_terminal_there_is_a_line_every_half_minute() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines("steps", said.append, clock=clock)
    clock.now += 20  # until training starts
    for step in range(1, 11):
        clock.now += 10
        lines.advance(step, 100, f"epoch 1, loss {step / 10:.3f}")
    assert said == [
        "1 of 100 steps, epoch 1, loss 0.100; running for 0:00:30",
        "4 of 100 steps, epoch 1, loss 0.400; running for 0:01:00, about 0:16:00 left",
        "7 of 100 steps, epoch 1, loss 0.700; running for 0:01:30, about 0:15:30 left",
        "10 of 100 steps, epoch 1, loss 1.000; running for 0:02:00, about 0:15:00 left",
    ]


def test_other_work_has_another_speed() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines("clips", said.append, clock=clock)
    for done, total in ((1, 10), (10, 10), (1, 50), (3, 50)):
        clock.now += 30
        lines.advance(done, total, "x")
    assert [line.partition("about ")[2] for line in said] == ["", "0:00:00 left", "", "0:11:45 left"]


def test_short_work_needs_no_line_and_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with bar() as (notify, advance):
        for step in range(1, 4):
            advance(step, 3, "epoch 1")
        notify("a line [of its own]")
    assert capfd.readouterr().err == "a line [of its own]\n"


def test_on_a_terminal_both_times_are_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with bar() as (_, advance):
        advance(1, 3, "epoch 1, loss 0.5")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)
    assert "epoch 1, loss 0.5" in shown and "1/3 steps running for 0:00:00" in shown
    assert "-:--:--" not in shown


def script(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("#!/bin/sh\n")
    place.chmod(0o755)
    return place


def test_the_program_is_named_as_it_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = script(tmp_path / "my home" / ".venv" / "bin" / "voxstrata")
    another = script(tmp_path / "other" / "voxstrata")
    monkeypatch.chdir(tmp_path / "my home")
    monkeypatch.setattr(sys, "argv", [".venv/bin/voxstrata", "train"])
    monkeypatch.setenv("PATH", os.defpath)
    assert program() == ".venv/bin/voxstrata"
    monkeypatch.setenv("PATH", str(another.parent))
    assert program() == ".venv/bin/voxstrata", "the shell would start another one"
    monkeypatch.setenv("PATH", str(own.parent))
    assert program() == "voxstrata"
    monkeypatch.setattr(sys, "argv", [str(own)])
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.chdir(tmp_path / "other")
    assert program() == f"'{own}'", "quoted, for there is a space in it"
    # Started as a module: the script beside the interpreter is the same program.
    monkeypatch.setattr(sys, "argv", ["/somewhere/cli/main.py"])
    monkeypatch.setattr(sys, "executable", str(another.with_name("python")))
    assert program() == "./voxstrata"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert program() == "voxstrata", "there is none to name"


def test_a_recipe_that_leaves_values_to_its_base_says_what_they_fit(recipe: Path) -> None:
    done = train(recipe, "defaults=fit", "training.epochs=1")
    assert done.exit_code == 0, done.output
    assert re.search(
        r"^defaults: what fits .* \(wav2vec2, tiny, by its config\.json\)", done.stderr, re.MULTILINE
    )
    values: Any = read_recipe(Path("runs/mine/recipe.yaml"))
    assert values.training.warmup == 0.1 and values.head.form == "d"
