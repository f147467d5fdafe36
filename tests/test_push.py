"""`voxstrata push` against a stand-in of the hub's HTTP API: what is uploaded and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_stand_in import Hub, hub
from voxstrata.backbone.encoder import load_backbone
from voxstrata.exporting.write import Wanted, export
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model


def push(server: str, *arguments: object, token: str = "letmein") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the hub's client reads its settings once."""
    settings = {"HF_ENDPOINT": server, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    words = [sys.executable, "-m", "voxstrata.cli.main", "push", *map(str, arguments)]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **settings, "NO_PROXY": "*"}
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line of an error."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("voxstrata: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return lines[-1]


@pytest.fixture(scope="module")
def exported(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder's export, with a file of somebody else in it."""
    out = tmp_path_factory.mktemp("exports") / "out"
    export(str(encoder_folder), out, Wanted(), notify=lambda line: None)
    (out / "diary.txt").write_text("mine")
    return out


def files_of(server: Hub, repo: str) -> dict[str, bytes]:
    return server.files[repo]


def test_all_files_of_the_export_and_no_others_are_uploaded(exported: Path) -> None:
    with hub() as server:
        done = push(server.endpoint, exported, "me/merge", "--private")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{server.endpoint}/me/merge"
        found = files_of(server, "me/merge")
        assert set(found) == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
        for name, content in found.items():
            if name != "README.md":
                assert content == (exported / name).read_bytes()
        card = found["README.md"].decode()
        assert 'AutoModel.from_pretrained("me/merge")' in card and "PATH/TO/EXPORT" not in card
        assert server.private == {"me/merge": True}


def test_a_newer_export_takes_the_place_of_an_older_one(exported: Path) -> None:
    with hub() as server:
        server.files["me/merge"] = {"vocab.json": b"{}", "notes.txt": b"theirs", "config.json": b"{}"}
        server.private["me/merge"] = False
        done = push(server.endpoint, exported, "me/merge")
        assert done.returncode == 0 and "older export left there: vocab.json" in done.stderr
        found = files_of(server, "me/merge")
        assert "vocab.json" not in found and found["notes.txt"] == b"theirs"
        assert found["config.json"] == (exported / "config.json").read_bytes()
        line = one_line(push(server.endpoint, exported, "me/merge", "--private"))
        assert "me/merge is there already and is public" in line


def test_encoder_and_head_are_fetched_before_they_are_loaded(encoder_folder: Path, tmp_path: Path) -> None:
    model = EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "joy")))
    save_model(model, tmp_path / "run" / "model")
    export(str(tmp_path / "run"), tmp_path / "out", Wanted(), notify=lambda line: None)
    with hub() as server:
        assert push(server.endpoint, tmp_path / "out", "me/both").returncode == 0
        found = files_of(server, "me/both")
    assert {"encoder/model.safetensors", "head.safetensors", "model.json"} <= set(found)
    assert "`hf download me/both --local-dir PATH/TO/EXPORT`" in found["README.md"].decode()


def test_what_cannot_be_pushed_is_one_line(exported: Path, tmp_path: Path) -> None:
    with hub() as server:
        closed = server.endpoint
        assert "log in: hf auth login" in one_line(push(server.endpoint, exported, "me/x", token="wrong"))
        for name in ("merge", "me/merge/x", "me/", "../x", "me/x y"):
            assert "give USER/NAME" in one_line(push(server.endpoint, exported, name))
        assert "is no export of voxstrata" in one_line(push(server.endpoint, tmp_path, "me/x"))
        assert not server.files
    assert "look at the network" in one_line(push(closed, exported, "me/x"))


def test_a_card_that_is_no_text_is_one_line(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    card = folder / "README.md"
    card.write_bytes(card.read_bytes() + b"\xff")
    with hub() as server:
        line = one_line(push(server.endpoint, folder, "me/x"))
        assert str(card) in line and "not UTF-8" in line and not server.files
