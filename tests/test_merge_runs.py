"""Run folders in a merge: their base, their heads, their names in the card, and what to type next."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import voxstrata as vs
from merged_files import moved, tensors
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.locate import locate
from voxstrata.cli.main import app
from voxstrata.errors import RecipeError, VoxstrataError

HEAD = {"classifier.weight": torch.ones(2, 3), "layer_sum.logits": torch.zeros(2)}


def run_folder(place: Path, encoder: Path, base: str, **provenance: Any) -> Path:
    """A run as training leaves one: provenance, recipe, the encoder and its head beside it."""
    shutil.copytree(encoder, place / "model" / "encoder")
    save_file(HEAD, place / "model" / "head.safetensors")
    (place / "provenance.json").write_text(json.dumps({"base": base, **provenance}))
    (place / "recipe.yaml").write_text(f"system: finetune\ntask: ser\nbase: {base}\n")
    return place


def merge(*words: object):
    return CliRunner().invoke(app, ["merge", *map(str, words)])


def front(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


@pytest.fixture
def runs(encoder_folder, expert_folders, tmp_path, monkeypatch) -> dict[str, Path]:
    """Two runs from a base in the folder `base`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(encoder_folder, tmp_path / "base")
    for name, folder in expert_folders.items():
        run_folder(tmp_path / "runs" / name, folder, "../../base")
    return {name: Path("runs") / name for name in expert_folders}


def test_the_base_of_runs_is_taken_from_them(runs, encoder_folder, expert_folders):
    vectors = [word for name, run in runs.items() for word in ("--vector", f"{name}={run}:0.5")]
    assert (done := merge(*vectors, "--out", "out")).exit_code == 0, done.output
    base, asr, ser = map(tensors, (encoder_folder, expert_folders["asr"], expert_folders["ser"]))
    for name, value in tensors(Path("out")).items():
        torch.testing.assert_close(value, (asr[name] + ser[name]) / 2, rtol=1e-5, atol=1e-6)
        assert value.shape == base[name].shape
    assert yaml.safe_load(Path("out/merge.yaml").read_text())["base"]["path"] == "base"
    again = vs.merge_files(None, {"asr": (str(runs["asr"] / "model"), 1.0)}, out="again")
    assert again.parents["base"]["path"] == "base"


def test_a_yaml_file_may_leave_the_base_out(runs):
    Path("mine.yaml").write_text("method: ties\nvectors:\n  a: {path: runs/asr, coefficients: 0.5}\n")
    assert merge("mine.yaml", "--out", "out").exit_code == 0
    assert yaml.safe_load(Path("out/merge.yaml").read_text())["base"]["path"] == "base"


def test_no_base_and_different_bases(runs, encoder_folder, expert_folders, tmp_path):
    for vectors, words in (
        ({"asr": expert_folders["asr"]}, ["no base (--base)", "no vector is a run"]),
        (
            {"asr": runs["asr"], "b": None},
            ["different bases", "asr from base", "b from other/base", "--base"],
        ),
    ):
        if "b" in vectors:
            vectors["b"] = run_folder(tmp_path / "runs" / "b", expert_folders["ser"], "other/base")
        with pytest.raises(RecipeError) as caught:
            vs.merge_files(None, {name: (place, 0.5) for name, place in vectors.items()}, out="out")
        assert all(word in str(caught.value) for word in words), caught.value
        assert "\n" not in str(caught.value)


def test_another_base_than_the_runs_is_refused(runs, encoder_folder):
    held = fingerprint(load_file(encoder_folder / "model.safetensors"))
    told = {"base": "../../base", "weights": {"base": held}}
    (runs["asr"] / "provenance.json").write_text(json.dumps(told))
    # Near enough to the base to pass for it by its weights.
    other = moved(encoder_folder, Path("other"), 5, scale=0.001)
    vector = ["--vector", f"asr={runs['asr']}:0.5"]
    for more in ([], ["--check"]):
        done = merge("--base", other, *vector, "--out", "out", *more)
        text = done.output if more else str(done.exception)
        assert "asr is a run that started from base, not from other; give --base base" in text, text
        assert done.exit_code == 2 or isinstance(done.exception, VoxstrataError)
    assert not Path("out").exists()
    assert merge("--base", other, *vector, "--out", "out", "--allow-foreign").exit_code == 0
    # The same weights elsewhere are the same base.
    shutil.copytree(encoder_folder, "copy")
    assert merge("--base", "copy", *vector, "--out", "out2").exit_code == 0


def test_the_base_of_a_runs_base_is_a_base_too(runs, encoder_folder, expert_folders):
    held = fingerprint(load_file(runs["asr"] / "model/encoder/model.safetensors"))
    later = run_folder(Path("runs/later"), expert_folders["ser"], "../asr", weights={"base": held})
    assert merge("--base", "base", "--vector", f"a={later}:0.5", "--out", "out").exit_code == 0
    assert merge("--vector", f"a={later}:0.5", "--out", "out2").exit_code == 0
    assert yaml.safe_load(Path("out2/merge.yaml").read_text())["base"]["path"] == "runs/asr"


def test_a_broken_provenance_is_one_line(runs):
    (runs["asr"] / "provenance.json").write_text("{")
    for base in ([], ["--base", "base"]):
        done = merge(*base, "--vector", f"asr={runs['asr']}:0.5", "--out", "out")
        assert isinstance(done.exception, VoxstrataError) and "provenance.json" in str(done.exception)
        assert "\n" not in str(done.exception)


def test_heads_of_runs_are_named_as_left_out_everywhere(runs):
    words = ["--vector", f"asr={runs['asr']}:0.5", "--out", "out"]
    checked = merge(*words, "--check")
    done = merge(*words, "--json")
    card = Path("out/README.md").read_text()
    told = json.loads(done.stdout)
    assert told["left_out"] == {"asr": dict.fromkeys(HEAD, "the run's head, in head.safetensors")}
    for text in (checked.output, done.stderr, card):
        assert "classifier.weight, layer_sum.logits (the run's head, in head.safetensors)" in text
    assert "Nothing:" not in card
    assert not set(HEAD) & set(tensors(Path("out")))


def test_what_is_copied_from_the_base_is_one_truth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expert = moved(locate("whisper-tiny.en"), tmp_path / "asr", 1, scale=0.001)
    words = ["--base", "whisper-tiny.en", "--vector", f"asr={expert}:0.5", "--out", "out"]
    checked, done = merge(*words, "--check"), merge(*words, "--json")
    told = json.loads(done.stdout)
    fixed = [name for name in tensors(Path("out")) if name.endswith("embed_positions.weight")]
    assert list(told["copied"]) == fixed and len(fixed) == 1
    card = Path("out/README.md").read_text()
    assert "Nothing:" not in card and f"as they are: {fixed[0]} (a fixed table" in card
    assert "1 copied from the base" in checked.output and fixed[0] in checked.output
    assert f"copied from the base: {fixed[0]}" in done.stderr


def test_nothing_is_claimed_only_where_it_is_true(encoder_folder, expert_folders, tmp_path):
    vs.merge_files(encoder_folder, {"a": (expert_folders["asr"], 1.0)}, out=tmp_path / "out")
    assert "Nothing: every tensor" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("base", ["whisper-tiny.en", "openai/whisper-tiny.en"])
def test_the_card_names_the_published_base_of_runs(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = locate("whisper-tiny.en")
    held = fingerprint(load_file(folder / "model.safetensors"))
    expert = moved(folder, tmp_path / "tuned", 1, scale=0.001)
    run_folder(tmp_path / "runs/asr", expert, base, weights={"base": held})
    shutil.copytree(folder, "mine")
    done = merge("--base", "mine", "--vector", "asr=runs/asr:0.5", "--out", "out", "--allow-foreign")
    assert done.exit_code == 0, done.output
    assert front(Path("out"))["base_model"] == ["openai/whisper-tiny.en"]


def test_the_next_command_works_as_typed(runs, corpus_folder):
    for run in runs.values():
        recipe = f"task: ser\nbase: x\ndata: {{corpora: [{{path: {corpus_folder}}}]}}\n"
        (run / "recipe.yaml").write_text(recipe)
    done = merge("--vector", f"asr={runs['asr']}:0.5", "--out", "out")
    line = next(line for line in done.stderr.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: ").partition("  (")[0])
    assert words[1:3] == ["train", "finetune-ser"] and f"data.corpora={corpus_folder}" in words
    small = [*words[1:], "training.epochs=1"]
    assert (ran := CliRunner().invoke(app, small)).exit_code == 0, (ran.output, ran.exception)
    out = Path(words[-1])
    trained, held = tensors(out / "model/encoder"), tensors(Path("out"))
    assert all(torch.equal(value, held[name]) for name, value in trained.items() if name in held)
    assert (out / "metrics.json").is_file()


def test_the_next_command_names_what_is_missing(encoder_folder, expert_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = merge("--base", encoder_folder, "--vector", f"a={expert_folders['asr']}:1", "--out", "out")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("next: ")]
    assert "data.corpora=CORPUS" in line and "corpus prepare" in line
