"""Merge methods beside each other: what is chosen and pooled by hand, and the command on tiny experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import voxstrata as vs
from toy_tasks import two_corpora
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError
from voxstrata.experiments.merge_methods.answering import LEARNED
from voxstrata.experiments.merge_methods.choosing import Tuning
from voxstrata.experiments.merge_methods.comparison import Comparison
from voxstrata.experiments.merge_methods.settings import GRID, REFERENCES, settings_of
from voxstrata.experiments.merge_methods.table import table_of
from voxstrata.experiments.run import execute
from voxstrata.merging.rules.registry import RULES, options_of
from voxstrata.predictions import Prediction, write_predictions
from voxstrata.recipes.reading import read_run_recipe, validate
from voxstrata.runs import RunFolder


def test_every_method_is_tried_with_as_many_settings():
    assert set(GRID) == set(RULES) and {len(settings) for settings in GRID.values()} == {4}
    for settings in GRID.values():
        assert len({one.described() for one in settings}) == 4
        for one in settings:
            options_of(RULES[one.method], one.options)
    assert list(settings_of(["ties"])) == [*REFERENCES, "ties-1", "ties-2", "ties-3", "ties-4"]


def test_a_fold_is_tuned_on_the_others_alone():
    """Where fold a alone would choose the first setting, and b and c the second."""
    scores = {
        "m-1": {"a": (0.8, 0.1), "b": (0.2, 0.1), "c": (0.3, 0.1)},
        "m-2": {"a": (0.1, 0.9), "b": (0.8, 0.1), "c": (0.8, 0.2)},
    }
    experts = dict.fromkeys("abc", (0.8, 0.0))
    across = Tuning(scores, experts, across=True)
    assert across.kept("m-2", "c") == pytest.approx(0.8) and across.kept("m-1", "b") == pytest.approx(0.25)
    assert across.kept("m-2", "a") == pytest.approx(0.1)
    assert [across.chosen(["m-1", "m-2"], fold) for fold in "abc"] == ["m-2", "m-1", "m-1"]
    alone = Tuning(scores, experts, across=False)
    assert [alone.chosen(["m-1", "m-2"], fold) for fold in "abc"] == ["m-1", "m-2", "m-2"]
    worse = Tuning({"m": {"a": (0.4, 1.7)}}, {"a": (0.8, 0.0)}, across=False)
    assert worse.kept("m", "a") == 0


CLASSES = ("anger", "neutral")


def emotions(right: list[bool], fold: int) -> list[Prediction]:
    """Clips of two speakers a fold, of two classes in turn."""
    rows = []
    for k, is_right in enumerate(right):
        truth, other = CLASSES[k % 2], CLASSES[(k + 1) % 2]
        rows.append(
            Prediction(
                f"clip-{fold}-{k}",
                speaker=f"s{fold}-{k // 4}",
                emotion=truth if is_right else other,
                reference_emotion=truth,
            )
        )
    return rows


def words(wrong: list[int]) -> list[Prediction]:
    """Ten clips of four words, the same ones for every fold, some words of each wrong."""
    texts = [" ".join(["odd"] * n + ["ab"] * (4 - n)) for n in wrong]
    return [
        Prediction(f"read-{k}", speaker=f"r{k // 2}", transcript=text, reference_transcript="ab ab ab ab")
        for k, text in enumerate(texts)
    ]


def test_folds_are_pooled_and_rows_compared_in_pairs(tmp_path):
    comparison = Comparison(tmp_path, ("fold-1", "fold-2", "fold-3"), ("wudi",))
    comparison.write({})
    random = np.random.default_rng(0)
    names = [*settings_of(["wudi"]), LEARNED]
    right = {n: [[bool(random.random() < 0.7) for _ in range(8)] for _ in range(3)] for n in names}
    wrong = {n: [list(map(int, random.integers(0, 3, 10))) for _ in range(3)] for n in names}
    for name in names:
        for place, fold in enumerate(comparison.folds):
            write_predictions(comparison.file(fold, name, "emotions"), emotions(right[name][place], place))
            for split in ("dev", "test"):
                write_predictions(comparison.file(fold, name, "words", split), words(wrong[name][place]))
    comparison.write_tuning()
    rows = {row.name: row for row in table_of(Comparison.read(tmp_path))}
    assert set(rows) == {*REFERENCES, "wudi", LEARNED}

    def uar(answers: list[list[bool]]) -> float:
        flat = np.array(answers).reshape(-1)
        return float(np.mean([flat[0::2].mean(), flat[1::2].mean()]))

    def wer(answers: list[list[int]]) -> float:
        return float(np.mean(answers) / 4)

    learned = rows[LEARNED]
    assert learned.scores["uar"].value == pytest.approx(uar(right[LEARNED]))
    assert learned.scores["wer"].value == pytest.approx(wer(wrong[LEARNED]))
    for name in REFERENCES:
        row = rows[name]
        assert row.over == LEARNED
        found = {metric: one.difference for metric, one in row.differences.items()}
        assert found["uar"] == pytest.approx(uar(right[name]) - uar(right[LEARNED]))
        assert found["wer"] == pytest.approx(wer(wrong[name]) - wer(wrong[LEARNED]))
        assert (row.differences["uar"].speakers, row.differences["wer"].speakers) == (6, 5)

    def kept(name: str, fold: int) -> float:
        best = uar([right["expert-emotions"][fold]]), wer([wrong["expert-words"][fold]])
        own = uar([right[name][fold]]), wer([wrong[name][fold]])
        return min(own[0] / best[0], (1 - own[1]) / (1 - best[1]))

    chosen = []
    for fold in range(3):
        others = [other for other in range(3) if other != fold]
        settings = [f"wudi-{k}" for k in range(1, 5)]
        chosen.append(max(settings, key=lambda n: np.mean([kept(n, other) for other in others])))
    assert list(Comparison.read(tmp_path).rows_by_fold["wudi"].values()) == chosen
    assert rows["wudi"].kept == pytest.approx(np.mean([kept(n, fold) for fold, n in enumerate(chosen)]))
    assert rows["wudi"].scores["uar"].value == pytest.approx(uar([right[n][f] for f, n in enumerate(chosen)]))
    everything = [row.kept for row in table_of(comparison, "halves")]
    assert everything == sorted(everything, reverse=True)


@pytest.fixture(scope="module")
def runs(encoder_folder, expert_folders, tmp_path_factory) -> dict[str, str]:
    """An expert for emotions, one for words and a learned merge of them; and one that was trained on dev."""
    folder = tmp_path_factory.mktemp("runs")
    corpora = two_corpora(folder / "corpora")
    head = {"form": "d", "normalize_layers": True}
    plain = {"base": str(encoder_folder), "training": {"epochs": 2}}
    acted = {"path": corpora["feelings"]}
    recipes: dict[str, dict[str, Any]] = {
        "ser": {
            **plain, "system": "finetune", "task": "ser", "head": head,
            "data": {"corpora": [acted], "batch_size": 4},
        },
        "dev": {
            **plain, "system": "finetune", "task": "ser", "head": head,
            "data": {"corpora": [{**acted, "trained": ["train", "dev"]}], "batch_size": 4},
        },
        "asr": {
            **plain, "system": "finetune", "task": "asr",
            "data": {"corpora": [{"path": corpora["words"]}], "batch_size": 4, "alphabet": "ab "},
        },
        "joint": {
            **plain, "system": "adaltm", "head": head, "data": {"batch_size": 4, "alphabet": "ab "},
            "vectors": {"asr": str(folder / "asr"), "ser": str(folder / "ser")},
            "tasks": {"ser": {"corpora": [acted]}, "asr": {"corpora": [{"path": corpora["words"]}]}},
        },
    }  # fmt: skip
    for name, values in recipes.items():
        torch.manual_seed(0)
        execute(validate(values, name), RunFolder(folder / name))
    return {**corpora, **{name: str(folder / name) for name in recipes}}


def arguments(runs: dict[str, str], out: Path, *more: str, expert: str = "ser") -> list[str]:
    return [
        *("compare-merges", str(out), "--emotion-expert", runs[expert], "--words-expert", runs["asr"]),
        *("--emotions", runs["feelings"], "--words", runs["words"], *more),
    ]


def test_experts_answer_as_their_runs_did_and_a_second_call_computes_nothing(runs, tmp_path, monkeypatch):
    asked = arguments(runs, tmp_path / "out", "--method", "fisher", "--learned", runs["joint"])
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "methods.json").read_text())
    rows = {row["name"]: row["scores"] for row in found["rows"]["experts"]}
    assert set(rows) == {*REFERENCES, "fisher", "learned", "learned-experts-heads"}
    own = {
        name: vs.evaluate(Path(runs[name]) / "predictions" / "test.jsonl").as_dict()
        for name in runs
        if name in ("ser", "asr", "joint")
    }
    assert rows["expert-emotions"]["uar"]["value"] == pytest.approx(own["ser"]["emotion"]["uar"]["value"])
    assert rows["expert-words"]["wer"]["value"] == pytest.approx(own["asr"]["transcript"]["wer"]["value"])
    assert rows["learned"]["uar"]["value"] == pytest.approx(own["joint"]["emotion"]["uar"]["value"])
    assert "fisher" in done.output and (tmp_path / "out" / "methods-experts.svg").is_file()
    chosen = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert set(chosen) == {*REFERENCES, *(f"fisher-{k}" for k in range(1, 5))}

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("merged again")

    monkeypatch.setattr("voxstrata.experiments.merge_methods.answering.merge_request", refuse)
    again = CliRunner().invoke(app, [*asked, "--json"])
    assert again.exit_code == 0 and json.loads(again.stdout)["rows"] == found["rows"]


def test_heads_are_fitted_to_a_merge_that_stays_as_it_is(runs, tmp_path):
    out = tmp_path / "out"
    more = ["--method", "slerp", "--learned", runs["joint"], "--fit-heads", "--epochs", "2"]
    done = CliRunner().invoke(app, arguments(runs, out, *more))
    assert done.exit_code == 0, done.output
    found = json.loads((out / "methods.json").read_text())["rows"]
    names = [{row["name"] for row in found[heads]} for heads in ("experts", "fitted")]
    assert names[1] == {*REFERENCES, "slerp", "learned"} == names[0] - {"learned-experts-heads"}
    merged = next((out / "own-splits").glob("slerp-*/heads/run"))
    recipe = read_run_recipe(RunFolder(merged))
    assert recipe.vectors == {} and recipe.training.epochs == 2
    assert recipe.start_heads == {"ser": runs["ser"], "asr": runs["asr"]}
    assert not list(out.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("more", "expert", "sentence"),
    [
        ([], "dev", "was trained on 4 of the clips of split dev of table"),
        (["--method", "tie"], "ser", "there is no merge method 'tie' to compare"),
        (["--fit-heads"], "ser", "give --learned"),
        (["--emotion-expert", "absent"], "ser", "absent is no run"),
        (["--words", "absent"], "ser", "no prepared corpus in absent"),
    ],
)
def test_what_cannot_be_compared_is_one_line(runs, tmp_path, more, expert, sentence):
    done = CliRunner().invoke(app, arguments(runs, tmp_path / "out", *more, expert=expert))
    assert isinstance(done.exception, VoxstrataError) and sentence in str(done.exception)
    assert "\n" not in str(done.exception) and not (tmp_path / "out" / "own-splits").exists()
