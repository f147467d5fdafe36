"""What a notebook calls: train, open, score, compare and predict, with the numbers of the commands."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import voxstrata as vs
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError
from voxstrata.experiments import run as run_module
from voxstrata.predictions import read_predictions, write_predictions
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder


def recipe(base: Path, corpus: Path) -> dict[str, Any]:
    """Six steps in three epochs."""
    return {
        "system": "finetune",
        "task": "ser",
        "base": base,
        "data": {"corpora": corpus, "batch_size": 4},
        "training": {"epochs": 3},
    }


@pytest.fixture(scope="module")
def run(encoder_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> vs.Run:
    return vs.train(recipe(encoder_folder, corpus_folder), out=tmp_path_factory.mktemp("runs") / "ser")


def command(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(message: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(VoxstrataError, match=message) as fault:
        call(*arguments, **options)
    assert "\n" not in str(fault.value)


def test_a_run_is_what_the_command_trains(
    run: vs.Run, encoder_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    values = [f"base={encoder_folder}", f"data.corpora=[{{path: {corpus_folder}}}]", "data.batch_size=4"]
    (tmp_path / "r.yaml").write_text("system: finetune\ntask: ser\n")
    command("train", tmp_path / "r.yaml", *values, "training.epochs=3", "--out", tmp_path / "ser")
    theirs = vs.Run(tmp_path / "ser")
    assert theirs.recipe == run.recipe and run.recipe["training"]["epochs"] == 3
    assert theirs.predictions("dev") == run.predictions("dev")
    assert run.splits == ["dev", "test"] == list(run.scores)
    stored = json.loads((run.path / "metrics.json").read_text())
    # The temperature is of the model, not of the answers; few clips of dev leave it at 1.
    assert [scores["calibration"].pop("temperature") for scores in stored.values()] == [1.0, 1.0]
    assert {split: scores.as_dict() for split, scores in run.scores.items()} == stored
    assert run.report.is_file() and (run.model / "model.json").is_file() and run.is_complete


def test_a_script_is_quiet_and_may_listen(
    encoder_folder: Path,
    corpus_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    values, told, steps = recipe(encoder_folder, corpus_folder), list[str](), list[int]()
    (tmp_path / "mine.yaml").write_text("system: finetune\ntask: ser\n")
    values.pop("system"), values.pop("task")
    with caplog.at_level(logging.INFO, "voxstrata"):
        first = vs.train(
            tmp_path / "mine.yaml",
            "training.epochs=1",
            out=tmp_path / "run",
            limit=3,
            progress=lambda now: steps.append(now.step),
            **(values | {"training.epochs": 2}),
        )
    assert steps == [1, 2] and first.recipe["training"]["epochs"] == 2
    assert first.recipe["data"]["corpora"][0]["limit"] == 3
    assert capfd.readouterr() == ("", "") and {record.name for record in caplog.records} == {"voxstrata"}
    again = vs.train(first.recipe, out=first.path, notify=told.append)
    assert again.path == first.path and any("is done already" in line for line in told)
    warnings = [f"warning: {split}: {w}" for split, s in first.scores.items() for w in s.warnings]
    assert [line for line in told if line.startswith("warning")] == warnings


def test_an_interrupted_run_goes_on(encoder_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        """Stands for the end of the process."""

    def die(now: Any) -> None:
        if now.step == 3:
            raise Killed

    values, told = recipe(encoder_folder, corpus_folder), list[str]()
    with pytest.raises(Killed):
        run_module.execute(read_recipe(values), RunFolder(tmp_path), progress=die)
    assert not vs.Run(tmp_path).is_complete and "not complete" in repr(vs.Run(tmp_path))
    refused("has no report: the run is not complete", lambda: vs.Run(tmp_path).report)
    assert vs.Run(tmp_path).scores == {}
    vs.train(values, out=tmp_path, notify=told.append)
    assert told.count("resumed at step 2 of 6") == 1 and vs.Run(tmp_path).is_complete


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({"system": "finetune"}, {}, "give its run a folder: out="),
        ({"system": "finetune", "tusk": 1}, {"out": "x"}, "^the recipe: .*tusk"),
        ({"system": "finetune", 3: 1}, {"out": "x"}, "has the key 3; keys are names"),
        ("no-such-recipe", {}, "no recipe 'no-such-recipe'"),
        ("finetune-ser", {"learning": 3, "defaults": None}, "learning"),
        ("finetune-ser", {"limit": 0, "defaults": None, "base": "b", "data.corpora": "c"}, "limit is 0"),
    ],
)
def test_faults_of_a_recipe_are_one_line(
    source: Any, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(message, vs.train, source, **options)
    assert not [*tmp_path.iterdir()]


def test_what_is_no_run_is_one_line(run: vs.Run, tmp_path: Path) -> None:
    refused("is no run folder", vs.Run, tmp_path)
    refused("it has dev, test", run.predictions, "train")
    (tmp_path / "recipe.yaml").write_text("system: finetune\n")
    (tmp_path / "metrics.json").write_text('{"test": {"clips": "many"}}')
    refused("do not hold what a run leaves", lambda: vs.Run(tmp_path).scores)
    refused("has no model", lambda: vs.Run(tmp_path).model)


def test_scores_are_those_of_the_command(run: vs.Run, corpus_folder: Path, tmp_path: Path) -> None:
    file = run.path / "predictions" / "test.jsonl"
    expected = json.loads(command("evaluate", file, "--json", "--resamples", 50, "--seed", 2))
    rows = read_predictions(file)
    plain = [{**row.as_dict(), "probabilities": as_numpy(row.probabilities)} for row in rows]
    for source in (run, run.path, str(file), rows, iter(rows), plain):
        assert vs.evaluate(source, resamples=50, seed=2).as_dict() == expected
    priors = {"prior": {"anger": 1, "neutral": 1, "sadness": 2}, "train_prior": corpus_folder / "corpus.json"}
    options = ("--prior", "anger=1,neutral=1,sadness=2", "--train-prior", corpus_folder / "corpus.json")
    expected = json.loads(command("evaluate", run.path, "--split", "dev", "--json", *options))
    assert vs.evaluate(run, split="dev", **priors).as_dict() == expected
    dev = run.path / "predictions" / "dev.jsonl"
    expected = json.loads(command("evaluate", run.path, dev, "--pool", "--json"))
    assert vs.evaluate(run, dev).as_dict() == expected
    by = ("--by", "speaker", "--corpus", corpus_folder, "--json")
    expected = json.loads(command("evaluate", run.path, *by))
    found = vs.parts(run, "speaker", corpus_folder)
    assert [vs.evaluate(those).as_dict() for those in found.values()] == [*expected.values()]
    assert [*found] == ["table-test-0", "table-test-1"]


def as_numpy(shares: Any) -> dict[str, Any]:
    return {name: np.float64(share) for name, share in shares.items()}


def test_a_comparison_is_that_of_the_command(run: vs.Run, tmp_path: Path) -> None:
    rows = read_predictions(run.path / "predictions" / "test.jsonl")
    right = [vs.Prediction(r.id, speaker=r.speaker, emotion=r.reference_emotion) for r in rows]
    write_predictions(tmp_path / "b.jsonl", right)
    expected = json.loads(command("compare", run.path, tmp_path / "b.jsonl", "--json", "--resamples", 40))
    for b in (tmp_path / "b.jsonl", right):
        assert vs.compare(run, b, resamples=40).as_dict() == expected


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ((), {}, "nothing to score was given"),
        ((3,), {}, "given as int"),
        (({"id": "a"},), {}, "given as dict"),
        (([],), {}, "the rows holds? no rows"),
        (([{"emotion": "x"}],), {}, 'the rows, row 1: a row is an object with at least "id"'),
        (([{"id": "a"}, {"id": "a"}],), {}, "row 2: id 'a' stands already in row 1"),
        (([{"id": "a", "emotion": 3}],), {}, "'emotion' must be a string"),
        (([{"id": "a"}],), {"split": "dev"}, "leave the split out"),
        (([{"id": "a"}],), {"seed": -1}, "seed of a resampling is -1"),
        (([{"id": "a"}],), {"labels": "a,b"}, "labels are a list of names"),
        (([{"id": "a"}],), {"prior": "uniform"}, "prior needs train_prior beside it"),
        (("no/such.jsonl",), {}, "no predictions file at"),
    ],
)
def test_what_cannot_be_scored_is_one_line(sources: Any, options: dict[str, Any], message: str) -> None:
    refused(message, vs.evaluate, *sources, **options)


def test_prepare_gives_the_corpus_of_the_command(recordings: list[Path], tmp_path: Path) -> None:
    lines = [f"{path},{name},train" for path, name in zip(recordings, "aabba", strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["path,emotion,split", *lines]))
    corpus = vs.prepare("table", str(tmp_path / "t.csv"), str(tmp_path / "here"))
    command("corpus", "prepare", "table", tmp_path / "t.csv", tmp_path / "there")
    assert corpus.fingerprint == vs.PreparedCorpus.load(str(tmp_path / "there")).fingerprint
    assert os.fspath(corpus) == str(tmp_path / "here") and len(repr(corpus)) < 300
    refused("no corpus 'nowhere'", vs.prepare, "nowhere", tmp_path, tmp_path / "out")


def test_a_mixed_generator_of_recordings_keeps_its_order(run: vs.Run, recordings: list[Path]) -> None:
    recognizer = run.recognizer()
    samples, rate = soundfile.read(recordings[1], dtype="float32")

    def mixed() -> Iterator[Any]:
        yield recordings[0]
        yield samples
        yield torch.from_numpy(samples), rate
        yield "absent.wav"
        yield recordings[2].read_bytes()
        with recordings[3].open("rb") as file:
            yield file
        yield np.zeros(8000, dtype=np.float32), 16_000
        yield 7

    rows = list(recognizer.predictions(mixed(), sample_rate=rate))
    assert [row.id for row in rows] == [
        *(str(recordings[0]), "recording 2", "recording 3", "absent.wav", "recording 5", "recording 6"),
        *("recording 7", "recording 8"),
    ]
    assert [row.error is None for row in rows] == [True, True, True, False, True, True, False, False]
    alone = [recognizer(path).probabilities for path in recordings[:4]]
    found = [rows[k].probabilities for k in (0, 1, 2, 4, 5)]
    assert found == [alone[k] for k in (0, 1, 1, 2, 3)]
    assert recognizer((samples, rate)).probabilities == alone[1]
    for given in (recordings[0], str(recordings[0]), samples, b"RIFF"):
        refused("one recording was given", recognizer.predictions, given)
    refused("Recognizer.predictions", recognizer, [recordings[0]])
    refused(r"tuple of \(PosixPath, int\)", recognizer, (recordings[0], rate))
    refused("give it once", recognizer, (samples, rate), sample_rate=8000)


def test_everything_prints_in_short_and_shows_escaped(run: vs.Run, recordings: list[Path]) -> None:
    evil = "<script>alert('x')</script>"
    rows = [
        {"id": f"{k}", "emotion": evil, "reference_emotion": evil, "transcript": "go " * 9000,
         "reference_transcript": "go on", "classes": {evil: {evil: 1.0}}, "reference_classes": {evil: evil}}
        for k in range(3)
    ]  # fmt: skip
    scores, heard = vs.evaluate(rows, resamples=10), run.recognizer()(recordings[0])
    row = vs.Prediction("a", transcript="go " * 9000)
    comparison = vs.compare(rows, rows, resamples=10)
    for thing in (scores, scores.emotion, scores.transcript, comparison, heard, row, run, run.recognizer()):
        text = repr(thing)
        assert text.startswith(type(thing).__name__) and len(text) < 400 and "\n" not in text, text
    for shown in (scores, comparison, heard, run):
        html = shown._repr_html_()
        assert html.count("<table>") == 1 == html.count("</table>") and len(html) < 4000
        assert set(re.findall(r"</?([a-z]+)", html)) <= {"table", "caption", "tr", "th", "td"}
    html = scores._repr_html_()
    assert "&lt;script&gt;" in html and "<td>100.00</td>" in html and "UAR 100.00" in repr(scores)
    assert heard.emotion is not None and heard.probabilities is not None
    assert heard.emotion in repr(heard)
    assert f"<td>{100 * max(heard.probabilities.values()):.2f}</td>" in heard._repr_html_()
