"""Every method and command over a Whisper encoder: trained, merged, saved, probed, answering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import WhisperForAudioClassification, WhisperModel
from typer.testing import CliRunner

from toy_tasks import recipe as harmonifuse_recipe
from toy_tasks import two_corpora
from voxstrata.backbone.encoder import load_backbone
from voxstrata.cli.main import app
from voxstrata.errors import AudioError
from voxstrata.experiments.run import execute
from voxstrata.inference.recognizer import Recognizer
from voxstrata.predictions import read_predictions
from voxstrata.recipes.reading import validate
from voxstrata.runs import RunFolder
from whisper_by_hand import whisper

WINDOWS = ("clip", "30s")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper") / "base"
    # Two seconds of positions: "30s" then pads to two seconds, and tests stay short.
    whisper(max_source_positions=100).save_pretrained(folder)
    return folder


def shared(base: Path, corpus: Path, window: str) -> dict[str, Any]:
    return {
        "base": str(base),
        "window": window,
        "data": {"corpora": [{"path": str(corpus)}], "batch_size": 4},
        "training": {"epochs": 1},
    }


@pytest.fixture(scope="module", params=WINDOWS)
def experts(
    request: pytest.FixtureRequest, base: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, str]]:
    """The window, and an expert for words and one for emotions, fine-tuned in it."""
    folder = tmp_path_factory.mktemp("experts")
    rates = {"rates": {"encoder": 1e-2, "head": 1e-2}}
    for task in ("asr", "ser"):
        values = {"system": "finetune", "task": task, **rates, **shared(base, corpus_folder, request.param)}
        execute(validate(values, task), RunFolder(folder / task))
    return request.param, {task: str(folder / task) for task in ("asr", "ser")}


def run(values: dict[str, Any], folder: Path) -> list[str]:
    said: list[str] = []
    execute(validate(values, "test"), RunFolder(folder), notify=said.append)
    return said


def test_fine_tuning_moves_layers_and_neither_convolutions_nor_positions(experts, base):
    window, folders = experts
    before = load_backbone(base).weights()
    for task, folder in folders.items():
        after = load_backbone(folder, window=window).weights()
        moved = {name for name in before if not before[name].equal(after[name])}
        assert any(name.startswith("encoder.layers.") for name in moved), task
        assert not any(name.startswith(("encoder.conv", "encoder.embed_positions")) for name in moved), task


@pytest.mark.parametrize("head", ["a", "d"])
@pytest.mark.parametrize("vectors", [True, False])
def test_merges_learn_keep_their_fronts_and_answer(
    experts, base, corpus_folder, recordings, tmp_path, vectors, head
):
    window, folders = experts
    values = {"system": "adaltm", **shared(base, corpus_folder, window), "head": {"form": head}}
    values["training"] = {"epochs": 2}
    said = run(values | {"vectors": folders if vectors else {}}, tmp_path / "run")
    kept = "the front end runs once" if vectors else "states are kept"
    assert any(kept in line for line in said), said
    rows = list(read_predictions(RunFolder(tmp_path / "run").predictions("test")))
    assert len(rows) == 4 and all(abs(sum(row.probabilities.values()) - 1) < 1e-4 for row in rows)
    about = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert about.get("window", "clip") == window
    recognizer = Recognizer.load(tmp_path / "run")
    heard = recognizer(recordings[0])
    assert heard.emotion is not None and (heard.transcript is not None) == vectors


def test_multitask_and_late_fusion_run(experts, base, corpus_folder, tmp_path):
    window, folders = experts
    values = shared(base, corpus_folder, window)
    run({"system": "multitask", "vectors": folders, **values}, tmp_path / "mtl")
    rows = list(read_predictions(RunFolder(tmp_path / "mtl").predictions("test")))
    assert all(row.emotion is not None and row.transcript is not None for row in rows)
    del values["base"]
    run({"system": "late-fusion", "experts": folders, **values}, tmp_path / "late")
    assert len(list(read_predictions(RunFolder(tmp_path / "late").predictions("test")))) == 4


@pytest.mark.parametrize("trained", ["none", "top"])
def test_harmonifuse_runs(base, tmp_path, trained):
    corpora = two_corpora(tmp_path / "corpora")
    changes = {"encoder_trained": trained, "encoder_top": 1, "training": {"steps": 4}}
    execute(harmonifuse_recipe(base, corpora, **changes), RunFolder(tmp_path / "run"))
    rows = list(read_predictions(RunFolder(tmp_path / "run").predictions("test")))
    assert any(row.emotion is not None for row in rows) and any(row.transcript is not None for row in rows)


def test_a_clip_beyond_the_positions_is_refused_before_training(base, tmp_path):
    from toy_tasks import write_corpus

    corpus = write_corpus(tmp_path, "long", (4, 2, 2), emotion=("anger", "neutral"), duration_s=2.5)
    with pytest.raises(AudioError, match=r"too long for the encoder.*2 s") as caught:
        run({"system": "adaltm", **shared(base, corpus, "clip")}, tmp_path / "run")
    assert "\n" not in str(caught.value)
    cropped = shared(base, corpus, "clip")
    cropped["data"]["crop_s"] = 1.0
    with pytest.raises(AudioError, match="too long for the encoder"):
        # Cropped in training, but whole where it is answered.
        run({"system": "adaltm", **cropped}, tmp_path / "cropped")


def test_commands_that_look_at_encoders_take_it(experts, base, corpus_folder, tmp_path):
    window, folders = experts
    seen = CliRunner().invoke(app, ["inspect", folders["ser"], "--base", str(base), "--json"])
    assert seen.exit_code == 0, seen.output
    groups = json.loads(seen.output)["groups"]
    assert len(groups) == 3
    probed = CliRunner().invoke(
        app, ["probe", str(base), "--corpus", str(corpus_folder), "--target", "emotion", "--resamples", "20"]
    )
    assert probed.exit_code == 0, probed.output
    assert sum(line.strip().startswith(("0 ", "1 ", "2 ")) for line in probed.output.splitlines()) == 3
    dry = CliRunner().invoke(
        app,
        [
            *(
                "train",
                "adaltm",
                f"base={base}",
                f"window={window}",
                f"data.corpora=[{{path: {corpus_folder}}}]",
            ),
            *(f"vectors={{asr: {folders['asr']}, ser: {folders['ser']}}}", "--dry-run", "--json"),
        ],
    )
    assert dry.exit_code == 0, dry.output
    found = json.loads(dry.output[dry.output.index("{") :])
    assert not found["faults"] and any("whisper" in line for line in found["encoders"])
    assert found["runs"][0]["costs"]["training_flops"] > 0


def test_the_export_of_a_run_opens_in_plain_transformers(experts, tmp_path):
    _, folders = experts
    done = CliRunner().invoke(app, ["export", folders["ser"], str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    place = next(path.parent for path in (tmp_path / "out").rglob("config.json"))
    for kind in (WhisperModel, WhisperForAudioClassification):
        opened = kind.from_pretrained(place).encoder.state_dict()
        ours = load_backbone(folders["ser"]).weights()
        assert all(opened[name.removeprefix("encoder.")].equal(tensor) for name, tensor in ours.items())
