"""`predict` with one recording by several names, and with a demo's table that is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.errors import CheckpointError
from voxstrata.inference.best_model import demo_model

RATE = 16_000


@pytest.fixture(scope="module")
def model(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.labels import LabelSet
    from voxstrata.methods.encoder_models import EmotionModel
    from voxstrata.methods.model_folder import save_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("once") / "model"
    save_model(EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "joy"))), folder)
    return folder


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    folder = tmp_path / "calls"
    (folder / "more").mkdir(parents=True)
    for k, name in enumerate(("a.wav", "b.wav", "more/c.wav")):
        soundfile.write(folder / name, np.random.default_rng(k).normal(size=RATE) * 0.1, RATE)
    return folder


def answered(model: Path, *given: object) -> tuple[list[str], str]:
    done = CliRunner().invoke(app, ["predict", *map(str, given), "--model", str(model), "--json"])
    assert done.exit_code == 0, done.output
    return [json.loads(line)["id"] for line in done.stdout.splitlines()], done.stderr


def test_a_recording_is_answered_once_by_the_name_that_comes_first(
    model: Path, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.wav").symlink_to(calls / "a.wav")
    (tmp_path / "linked").symlink_to(calls)
    monkeypatch.chdir(tmp_path)
    a, b, c = (str(calls / name) for name in ("a.wav", "b.wav", "more/c.wav"))
    for given, wanted, again in (
        ((a, a), [a], 1),
        ((a, b, a, a), [a, b], 2),
        ((calls, b), [a, b, c], 1),
        ((b, calls), [b, a, c], 1),
        ((calls, calls), [a, b, c], 3),
        ((calls, calls / "more"), [a, b, c], 1),
        ((calls, tmp_path / "linked"), [a, b, c], 3),
        (("link.wav", a), ["link.wav"], 1),
        (("calls/a.wav", "calls/../calls/a.wav", a), ["calls/a.wav"], 2),
        ((a, b), [a, b], 0),
    ):
        ids, said = answered(model, *given)
        assert ids == wanted
        assert (f"{again} given again, answered once: " in said) == bool(again)


def test_files_with_the_same_content_are_several_recordings(model: Path, calls: Path) -> None:
    (calls / "copy.wav").write_bytes((calls / "a.wav").read_bytes())
    os.link(calls / "a.wav", calls / "other.wav")
    names = [str(calls / name) for name in ("a.wav", "copy.wav", "other.wav")]
    ids, said = answered(model, *names)
    assert ids == names and "given again" not in said


def test_what_is_not_there_is_said_once(model: Path, tmp_path: Path) -> None:
    name = str(tmp_path / "none.wav")
    done = CliRunner().invoke(app, ["predict", name, name, "--model", str(model), "--json"])
    assert done.exit_code == 3 and len(done.stdout.splitlines()) == 1


def test_a_prepared_corpus_is_answered_once(corpus_folder: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(corpus_folder)
    ids, said = answered(model, corpus_folder, tmp_path / "link")
    assert len(ids) == len(set(ids)) == 4 and "1 given again" in said


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"rows": 3}',
        '{"rows": [{"name": "joint", "runs": []}]}',
        '{"rows": [null]}',
        "[" * 10**5,
    ],
)
def test_a_demos_table_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tables" / "adaltm-demo").mkdir(parents=True)
    (tmp_path / "tables" / "adaltm-demo" / "table.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"table\.json.*give --model RUN") as caught:
        demo_model(tmp_path)
    assert "\n" not in str(caught.value)
