"""`export --onnx`: onnxruntime gives the answers of the run for clips of any length; int8 nearly so."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tiny_whisper import tone
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.locate import packaged
from voxstrata.cli.main import app
from voxstrata.config.head import HeadOptions
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.exporting import onnx_file
from voxstrata.exporting.clips import clips_for
from voxstrata.exporting.ctc import ctc_model
from voxstrata.exporting.emotion import emotion_model
from voxstrata.exporting.plain_model import PlainModel
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import DimensionModel, EmotionModel
from voxstrata.methods.model_folder import load_model

NEEDED = ("onnx", "onnxruntime", "onnxscript")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
with_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra onnx)")


def emotions(folder: Path) -> EmotionModel:
    torch.manual_seed(0)
    labels = LabelSet(("neutral", "anger", "fear"))
    model = EmotionModel(load_backbone(folder), labels, HeadOptions(width=16))
    torch.nn.init.normal_(model.head.classifier.weight)
    return model.requires_grad_(False).eval()


def written(plain: PlainModel, folder: Path, *, int8: bool) -> list[str]:
    plain.write(folder, dtype=torch.float32)
    clips = clips_for(folder, shortest=plain.shortest, longest=plain.longest)
    return onnx_file.write_onnx(plain, folder, clips, dtype=torch.float32, int8=int8)


def answer(path: Path, wave: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"samples": wave.unsqueeze(0).numpy()})[0])[0]


@with_onnx
def test_the_graph_answers_raw_samples_of_any_length_as_the_run_does(
    encoder_folder: Path, tmp_path: Path
) -> None:
    import onnx

    plain = emotion_model(emotions(encoder_folder))
    lines = written(plain, tmp_path / "out", int8=True)
    for samples in (plain.shortest, 5001, 40_000):
        wave = 3.0 * tone(samples, samples) + 0.2
        (ours,) = plain.answers(wave.unsqueeze(0), torch.tensor([samples]))
        found = answer(tmp_path / "out" / "model.onnx", wave)
        torch.testing.assert_close(found, ours.tensors["logits"], rtol=1e-4, atol=1e-4)
        rough = answer(tmp_path / "out" / "model.int8.onnx", wave)
        assert 0 < (rough - found).norm() < 0.5 * found.norm()
    (found,) = (re.search(r"changes by at most ([\d.e-]+) \(mean", line) for line in lines[1:])
    assert found is not None and 0 < float(found[1]) < 1
    about = {one.key: one.value for one in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert json.loads(about["outputs"]) == ["neutral", "anger", "fear"]


@with_onnx
def test_ratings_and_the_packaged_recogniser_have_a_graph_too(encoder_folder: Path, tmp_path: Path) -> None:
    rates = DimensionModel(load_backbone(encoder_folder), HeadOptions(width=16)).eval()
    _, line = written(emotion_model(rates), tmp_path / "ratings", int8=True)
    assert "a rating changes by at most" in line
    folder = packaged("wavlm-tiny-asr")
    assert folder is not None
    (line,) = written(ctc_model(load_model(folder)), tmp_path / "words", int8=False)
    assert "largest relative difference" in line
    assert {path.name for path in (tmp_path / "words").glob("*onnx*")} == {"model.onnx"}


@with_onnx
def test_a_graph_with_other_answers_is_refused(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = onnx_file._answers
    monkeypatch.setattr(onnx_file, "_answers", lambda *given: [1.01 * one for one in own(*given)])
    with pytest.raises(CheckpointError, match=r"onnxruntime answers otherwise than the run: .* 1e-04"):
        written(emotion_model(emotions(encoder_folder)), tmp_path / "out", int8=False)


def test_what_has_no_graph_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any) -> str:
        words = ["export", "wavlm-tiny-asr", str(tmp_path / "out"), *arguments]
        with pytest.raises(VoxstrataError) as fault:
            CliRunner().invoke(app, words, catch_exceptions=False)
        return str(fault.value)

    assert refused("--onnx") == "--onnx is of --as emotion and --as ctc; add one, or leave it out"
    assert "--onnx is of --as" in refused("--as", "encoder", "--onnx")
    assert refused("--as", "ctc", "--int8") == "--int8 is of --onnx only; add --onnx, or leave it out"
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    assert "pip install 'voxstrata[onnx]'" in refused("--as", "ctc", "--onnx")
    assert not (tmp_path / "out").exists()
