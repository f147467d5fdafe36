"""A table divided into jobs: parts over one folder, and the SLURM array that starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import RecipeError, VoxstrataError
from voxstrata.experiments import run
from voxstrata.experiments.tables.archive import placeless
from voxstrata.experiments.tables.corpora import given_corpora
from voxstrata.experiments.tables.pieces import Piece, narrowed, points
from voxstrata.experiments.tables.table import Scale, read_table_spec
from voxstrata.reporting import page
from voxstrata.runs import RunFolder, folder_lock, is_held

ARRAY = Path(__file__).parents[1] / "examples" / "slurm" / "array.sh"


@pytest.fixture
def table(encoder_folder: Path, corpus_folder: Path, tmp_path: Path) -> Path:
    """Two rows that share an expert, two seeds."""
    data = {"corpora": [{"path": "$corpus.speech"}]}
    everywhere = {"base": str(encoder_folder), "data": data, "training": {"epochs": 1}}
    values = {
        "title": "two rows",
        "columns": ["uar"],
        "runs": {
            "ser": {"recipe": "finetune-ser"},
            "single": {"recipe": "adaltm", "set": {"vectors": {"ser": "$run.ser"}}},
        },
        "rows": [{"run": "ser", "title": "expert"}, {"run": "single", "title": "one vector"}],
        "scales": {
            "toy": {
                "corpora": {"speech": {"reader": "table", "folder": corpus_folder.parent.name}},
                "axes": {"seed": [0, 1]},
                "set": {"all": everywhere},
            }
        },
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "toy.yaml"


def reproduce(table: Path, corpus_folder: Path, *choice: str):
    options = ["--scale", "toy", "--data", str(corpus_folder.parents[1]), "--out", str(table.parent / "runs")]
    return CliRunner().invoke(app, ["reproduce", str(table), *options, "--json", *choice])


def test_parts_are_trained_once_and_the_table_is_written_from_them(
    table: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda run: None)
    monkeypatch.setattr(page, "write_table_report", lambda folder: None)
    folders = []
    for row, seed in (("single", 1), ("ser", 0), ("single", 0)):
        done = reproduce(table, corpus_folder, "--only", row, "--seed", str(seed))
        (folder,) = json.loads(done.stdout)
        assert RunFolder(Path(folder)).is_complete and Path(folder).name.startswith(f"{row}-")
        folders.append(folder)
    runs = table.parent / "runs"
    assert not (runs / "tables").exists()
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/COMPLETE")}
    assert len(before) == 4
    rows = json.loads(reproduce(table, corpus_folder).stdout)["rows"]
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/COMPLETE")} == before
    assert [row["name"] for row in rows] == ["ser", "single"]
    results = table.parent / "results.md"
    done = reproduce(
        table, corpus_folder, "--only", "single", "--seed", "1", "--table", "--results", str(results)
    )
    piece = json.loads(done.stdout)
    assert [row["name"] for row in piece["rows"]] == ["single"] and len(piece["rows"][0]["runs"]) == 1
    command = f"voxstrata reproduce {table} --scale toy --only single --seed 1 --table"
    assert piece["command"] == command and piece["scale"] == "toy, seed 1"
    assert (
        f"`{command}`" in results.read_text() and "begin toy-toy-rows-947f18-seed1 -->" in results.read_text()
    )
    assert {path.name for path in (runs / "tables").iterdir()} == {"toy-toy", "toy-toy-rows-947f18-seed1"}
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/COMPLETE")} == before


def test_what_another_process_is_doing_is_left_to_it_while_there_is_other_work(
    table: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda run: None)
    (held,) = map(Path, json.loads(reproduce(table, corpus_folder, "--only", "ser", "--seed", "0").stdout))
    shutil.rmtree(held)
    found: list[list[str]] = []
    with folder_lock(held):
        assert is_held(held) and not is_held(held.parent / "nowhere")
        work = threading.Thread(
            target=lambda: found.append(
                json.loads(reproduce(table, corpus_folder, "--only", "single,ser").stdout)
            )
        )
        work.start()
        until = time.monotonic() + 120
        while len(list(held.parent.glob("*/COMPLETE"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        done = {path.parent.name for path in held.parent.glob("*/COMPLETE")}
        assert len(done) == 2 and held.name not in done, "the other seed's runs"
        time.sleep(0.5)
        assert work.is_alive() and {path.parent.name for path in held.parent.glob("*/COMPLETE")} == done
    work.join(120)
    assert not is_held(held) and len(list(held.parent.glob("*/COMPLETE"))) == 4
    assert {Path(folder).name for folder in found[0]} >= {held.name}


def test_a_corpus_that_is_prepared_already_serves_in_the_place_of_the_tables_own(
    table: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs are the same ones, wherever the corpus lies; no data root is needed."""
    monkeypatch.setattr(page, "write_report", lambda run: None)
    monkeypatch.delenv("VOXSTRATA_DATA", raising=False)
    runs = table.parent / "runs"
    ready = ["--corpus", f"speech={corpus_folder}", "--only", "ser", "--seed", "0"]
    words = ["reproduce", str(table), "--scale", "toy", "--out", str(runs), "--json", *ready]
    checked = CliRunner().invoke(app, [*words, "--dry-run"])
    found = json.loads(checked.stdout)
    assert (checked.exit_code, found["faults"]) == (0, []), checked.output
    assert [run["name"] for run in found["runs"]] == ["ser"]
    assert [corpus["folder"] for corpus in found["corpora"]] == [str(corpus_folder)]
    first = json.loads(CliRunner().invoke(app, words).stdout)
    assert not list((runs / "corpora").glob("speech-*"))
    recipe = yaml.safe_load((Path(first[0]) / "recipe.yaml").read_text())
    assert recipe["data"]["corpora"][0]["path"] == str(corpus_folder)
    done = (Path(first[0]) / "COMPLETE").stat().st_mtime_ns
    assert json.loads(reproduce(table, corpus_folder, "--only", "ser", "--seed", "0").stdout) == first
    assert (
        list((runs / "corpora").glob("speech-*")) and (Path(first[0]) / "COMPLETE").stat().st_mtime_ns == done
    )


def test_a_corpus_that_was_prepared_in_another_way_is_refused(
    table: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    def scale(**changes: object) -> Scale:
        values = yaml.safe_load(table.read_text())
        values["scales"]["toy"]["corpora"]["speech"] |= changes
        values["scales"]["toy"]["corpora"]["spoken"] = {"synth": {}}
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(values))
        return read_table_spec(tmp_path / "changed.yaml").scale("toy")

    trimmed = prepare("table", corpus_folder.parent, tmp_path / "trimmed", trim_silence=True).folder
    for changes, given, message in (
        ({}, ["speech"], "has the form NAME=FOLDER; found 'speech'"),
        ({}, ["other=x"], "this scale's corpora are speech"),
        ({}, ["spoken=x"], "synthetic corpora are spoken anew"),
        ({}, [f"speech={corpus_folder}"] * 2, "given twice"),
        ({}, [f"speech={tmp_path / 'nowhere'}"], "nowhere"),
        ({"reader": "ravdess"}, [f"speech={corpus_folder}"], "its reader is table, here ravdess"),
        ({"maps": ["four"]}, [f"speech={corpus_folder}"], "its label maps are none, here four"),
        ({"trim_silence": True}, [f"speech={corpus_folder}"], "its silence is kept"),
        ({}, [f"speech={trimmed}"], "its silence is trimmed"),
    ):
        with pytest.raises(VoxstrataError, match=message) as fault:
            given_corpora(scale(**changes), given)
        assert "\n" not in str(fault.value)
    (one,) = given_corpora(scale(), [f"speech={corpus_folder}"]).values()
    assert one.folder == corpus_folder
    (one,) = given_corpora(scale(trim_silence=True, skip_bad=True), [f"speech={trimmed}"]).values()
    assert one.folder == trimmed


def test_an_archive_gives_the_same_table_without_training_and_tells_no_places(
    table: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda run: None)
    first, second = tmp_path / "first.tar.xz", tmp_path / "second.tar.xz"
    told = yaml.safe_load(table.read_text()) | {"contrasts": [{"run": "single", "over": "ser"}]}
    table.write_text(yaml.safe_dump(told))
    given = json.loads(reproduce(table, corpus_folder, "--archive", str(first)).stdout)
    assert given["contrasts"][0]["differences"]
    (table.parent / "runs").rename(tmp_path / "elsewhere")
    with tarfile.open(first) as archive:
        archive.extractall(table.parent / "runs", filter="data")
    monkeypatch.setattr(run, "fit", pytest.fail)
    again = json.loads(reproduce(table, corpus_folder, "--archive", str(second)).stdout)
    assert [again[part] for part in ("rows", "contrasts")] == [given[part] for part in ("rows", "contrasts")]
    assert first.read_bytes() == second.read_bytes()
    texts = [path.read_text() for path in (table.parent / "runs").glob("*-*/**/*") if path.is_file()]
    assert len(texts) > 4 * 4 and not any(str(tmp_path.parents[1]) in text for text in texts)
    assert any("corpora/speech-" in text for text in texts)
    assert not list((table.parent / "runs").glob("**/*.safetensors"))


def test_a_table_is_written_from_what_is_finished_or_from_archives_alone(
    table: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda run: None)
    early, whole = tmp_path / "early.tar.xz", tmp_path / "whole.tar.xz"
    nothing = reproduce(table, corpus_folder, "--finished")
    assert "no run of toy-toy is finished there" in str(nothing.exception)
    reproduce(table, corpus_folder, "--only", "ser", "--seed", "0")
    so_far = json.loads(reproduce(table, corpus_folder, "--finished", "--archive", str(early)).stdout)
    assert [(row["name"], row["finished"], row["seeds"]) for row in so_far["rows"]] == [
        ("ser", True, 1),
        ("single", False, 0),
    ]
    given = json.loads(reproduce(table, corpus_folder, "--archive", str(whole)).stdout)

    def from_archives(*answers: Path | str, table: Path = table) -> dict:
        words = ["reproduce", str(table), "--scale", "toy", "--out", str(tmp_path / "elsewhere"), "--json"]
        done = CliRunner().invoke(
            app, [*words, *(part for one in answers for part in ("--answers", str(one)))]
        )
        assert done.exception is None, done.exception
        return json.loads(done.stdout)

    monkeypatch.setattr(run, "fit", pytest.fail)
    monkeypatch.delenv("VOXSTRATA_DATA", raising=False)
    for answers in ([whole], [tmp_path], [tmp_path / "*.tar.xz"], [early, whole]):
        again = from_archives(*answers)
        for row, before in zip(again["rows"], given["rows"], strict=True):
            assert {**row, "runs": []} == {**before, "runs": []}
    assert again["machine"] == given["machine"] and given["date"].startswith(again["date"])
    assert [row["finished"] for row in from_archives(early)["rows"]] == [True, False]
    another = yaml.safe_load(table.read_text())
    another["scales"]["toy"]["set"]["all"]["training"] = {"epochs": 2}
    (tmp_path / "another.yaml").write_text(yaml.safe_dump(another))
    with pytest.raises(AssertionError, match="no run of another-toy is finished there"):
        from_archives(whole, table=tmp_path / "another.yaml")
    with pytest.raises(AssertionError, match="no archive is there"):
        from_archives(tmp_path / "nowhere")
    refused = reproduce(table, corpus_folder, "--answers", str(whole), "--finished")
    assert "--answers needs archives alone; leave --data, --finished out" in str(refused.exception)


@pytest.mark.parametrize("runs", ["runs", "deep/runs", "."])
def test_paths_in_an_archive_are_relative_to_the_runs_and_others_are_left_a_name(
    runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inside, beside = Path(runs, "corpora", "speech-1"), "../pretrained/base"
    given = {"a": [str(inside), str(inside.absolute())], "b": "/srv/my-runs/base", "c": beside, "d": "basic"}
    assert placeless(given, Path(runs)) == {
        "a": ["corpora/speech-1"] * 2,
        "b": "base",
        "c": beside,
        "d": "basic",
    }
    assert placeless({str(inside): 0.5}, Path(runs)) == {"corpora/speech-1": 0.5}


def test_a_part_that_is_not_there_is_refused(table: Path, corpus_folder: Path) -> None:
    whole = read_table_spec(table)
    toy = whole.scale("toy")
    for choice, message in (
        ({"rows": ("ser", "triple")}, "no row triple; this scale has ser, single"),
        ({"fold": 1}, "no fold 1; this scale has no folds"),
        ({"part": 3}, "no part 3; this scale has no parts"),
        ({"seed": 2}, "no seed 2; this scale has 0, 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            narrowed(whole, toy, Piece(**choice))
    assert list(points(narrowed(whole, toy, Piece(("ser",), seed=1)).axes)) == [
        {"$seed": 1, "$fold": None, "$part": None}
    ]
    refused = reproduce(table, corpus_folder, "--seed", "1", "--results", "results.md")
    assert "--results is for a whole table" in str(refused.exception)
    refused = reproduce(table, corpus_folder, "--seed", "1", "--archive", "a.tar.xz")
    assert "--archive is for a whole table" in str(refused.exception)
    assert "--only names no row" in str(reproduce(table, corpus_folder, "--only", " ,").exception)
    refused = reproduce(table, corpus_folder, "--dry-run", "--results", "results.md")
    assert "a dry run has no numbers for --results" in str(refused.exception)
    assert "--table is for a piece" in str(reproduce(table, corpus_folder, "--table").exception)


def test_a_launcher_of_several_processes_is_refused(
    table: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "started 2 times" in str(reproduce(table, corpus_folder).exception)


def test_a_folder_in_use_is_waited_for_or_refused(tmp_path: Path) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with folder_lock(tmp_path / "run", waiting=lambda line: (said.append(line), asked.set())):
            order.append("second")

    asked = threading.Event()
    with folder_lock(tmp_path / "run"):
        with (
            pytest.raises(VoxstrataError, match="in use by another process"),
            RunFolder(tmp_path / "run").lock(),
        ):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        assert asked.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and "which is waited for" in said[0]


@pytest.fixture
def slurm(tmp_path: Path):
    """A function that runs one task of the array, with programs that only say what they were asked."""
    for name, exit_code in (("srun", "${SRUN_EXIT:-0}"), ("scontrol", "0")):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@"\nexit {exit_code}\n')
        (tmp_path / name).chmod(0o755)

    def task(number: int, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        known = {"PATH": path, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_ID": "7"}
        return subprocess.run(["bash", ARRAY], env=known | environment, capture_output=True, text=True)

    return task


def test_the_slurm_array_covers_rows_folds_and_seeds(slurm) -> None:
    axes = {"ROWS": "ser dual", "FOLDS": "1 2 3", "SEEDS": "0 7", "TABLE": "t.yaml", "SCALE": "toy"}
    asked = {slurm(number, **axes).stdout.strip() for number in range(12)}
    assert asked == {
        f"srun voxstrata reproduce t.yaml --scale toy --out runs --only {row} --seed {seed} --fold {fold}"
        for row in ("ser", "dual")
        for fold in (1, 2, 3)
        for seed in (0, 7)
    }
    assert slurm(12, **axes).returncode == 2
    whole = slurm(0, **(axes | {"FOLDS": "none"})).stdout.strip()
    assert whole == "srun voxstrata reproduce t.yaml --scale toy --out runs --only ser --seed 0"


def test_the_slurm_array_begins_a_stopped_job_anew(slurm) -> None:
    stopped = slurm(0, SRUN_EXIT="130")
    assert stopped.returncode == 130 and stopped.stdout.splitlines()[1] == "scontrol requeue 7"
    failed = slurm(0, SRUN_EXIT="2")
    assert failed.returncode == 2 and "requeue" not in failed.stdout


def test_the_slurm_array_asks_for_rows_of_the_table(slurm) -> None:
    table = read_table_spec("adaltm-wavlm-tiny")
    real = table.scale("real")
    rows = {row.run for row in table.shown(real)}
    for number in range(8):
        words = slurm(number).stdout.split()
        chosen = {name: words[words.index(name) + 1] for name in ("--only", "--fold", "--seed")}
        assert chosen["--only"] in rows
        assert int(chosen["--fold"]) in real.axes.fold and int(chosen["--seed"]) in real.axes.seed
    assert slurm(8).returncode == 2
