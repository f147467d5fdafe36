"""`voxstrata export` writes what opens again, in the precision asked for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.cli.main import app
from voxstrata.heads.ctc import CTCHead
from voxstrata.systems.model_folder import load_model, save_model
from voxstrata.systems.pretraining.tiny_encoder import tiny_config
from voxstrata.systems.recognition import TranscriptionModel
from voxstrata.vocabulary import Vocabulary

SMALL = {"hidden_size": 32, "layers": 2, "attention_heads": 2, "feed_forward": 48, "channels": 36}


def export(*arguments: object) -> int:
    return CliRunner().invoke(app, ["export", *map(str, arguments)]).exit_code


@pytest.fixture
def model(tmp_path: Path) -> Path:
    encoder = build_backbone(tiny_config(**SMALL), seed=0)
    save_model(TranscriptionModel(encoder, CTCHead(32, Vocabulary(("a", "b")))), tmp_path / "run" / "model")
    return tmp_path / "run"


def test_a_model_in_half_precision_opens_and_answers_nearly_the_same(model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path / "out", "--dtype", "float16") == 0
    stored = load_file(tmp_path / "out" / "encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    waveforms, lengths = torch.randn(1, 8000), torch.tensor([8000])
    before, after = (load_model(path).encoder for path in (model / "model", tmp_path / "out"))
    change = after(waveforms, lengths).layers[-1] - before(waveforms, lengths).layers[-1]
    assert 0 < change.norm() < 0.01 * before(waveforms, lengths).layers[-1].norm()


def test_an_encoder_without_head_is_a_plain_folder(tmp_path: Path) -> None:
    encoder = build_backbone(tiny_config(**SMALL), seed=0)
    encoder.save(tmp_path / "run" / "model" / "encoder")
    assert export(tmp_path / "run", tmp_path / "out") == 0
    again = load_backbone(tmp_path / "out").weights()
    assert all(torch.equal(again[name], tensor) for name, tensor in encoder.weights().items())


def test_an_existing_folder_and_an_unknown_precision_are_refused(model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path) != 0
    assert export(model, tmp_path / "out", "--dtype", "int8") != 0
    assert not (tmp_path / "out").exists()
