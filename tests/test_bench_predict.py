"""`bench predict`: the same answers as transformers' pipelines, and what 8 bits change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.batch import Batch, Reference
from voxstrata.benchmarks import predict
from voxstrata.cli.main import app
from voxstrata.config.head import HeadOptions
from voxstrata.errors import VoxstrataError
from voxstrata.inference.int8 import alone, encoders_in_int8
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model

LABELS = LabelSet(("anger", "joy", "neutral"))


@pytest.fixture
def model(tmp_path: Path, encoder_folder: Path) -> Path:
    torch.manual_seed(1)
    save_model(EmotionModel(load_backbone(encoder_folder), LABELS).eval(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(1)
    (tmp_path / "calls").mkdir()
    paths = [tmp_path / "calls" / f"{k}.wav" for k in range(4)]
    for k, path in enumerate(paths):
        soundfile.write(path, 0.1 * draw.standard_normal(9000 + 4000 * k), 16000)
    return paths


def test_the_bench_tells_ratios_and_what_8_bits_change(model: Path, recordings: list[Path]) -> None:
    done = CliRunner().invoke(
        app,
        ["bench", "predict", "--quick", "--threads", "1", "--json", "--model", str(model), "--audio",
         str(recordings[0].parent)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (row,) = told["rows"]
    assert row["answers"] == "emotion" and set(row["modes"]) == {"voxstrata", "int8", "pipeline"}
    ours, theirs = row["modes"]["voxstrata"], row["modes"]["pipeline"]
    assert ours["time_ratio"] == pytest.approx(ours["median_s"] / theirs["median_s"])
    seconds = told["settings"]["seconds of audio"]
    figures = told["figures"]
    assert figures["real-time factor of voxstrata for emotion"] == pytest.approx(
        ours["median_s"] / seconds, rel=0.01
    )
    assert figures["recordings compared"] == 3 and 0 <= figures["labels changed by int8"] <= 3
    assert figures["MB with int8"] < figures["MB of the model"]


def test_a_model_without_a_form_in_transformers_is_measured_alone(
    tmp_path: Path, encoder_folder: Path, recordings: list[Path]
) -> None:
    # Its head has ReLU between its maps, for which transformers' class has no place.
    odd = EmotionModel(load_backbone(encoder_folder), LABELS, HeadOptions(form="b")).eval()
    save_model(odd, tmp_path / "odd")
    options = predict.PredictOptions(model=str(tmp_path / "odd"), audio=str(recordings[0].parent)).quick()
    found = predict.run(options)
    assert set(found.rows[0].runs) == {"voxstrata", "int8"} and found.reference == "voxstrata"
    assert "ReLU" in found.settings["no pipeline"]


def test_ours_and_the_pipelines_give_the_same_answers(
    tmp_path: Path, encoder_folder: Path, recordings: list[Path]
) -> None:
    options = predict.PredictOptions(encoder=str(encoder_folder)).quick()
    assert predict._write_models(options, tmp_path) == (("emotion", "words", "both"), "")
    (tmp_path / "calls").rename(tmp_path / "audio")
    ours = predict._ours(str(tmp_path), False)
    theirs = predict._pipelines(str(tmp_path), (1,))
    felt, written = theirs("both")
    both = ours("both")
    assert [row.transcript for row in both] == [row.transcript for row in ours("words")]
    for row, shares, words in zip(both, felt, written, strict=True):
        assert row.probabilities == pytest.approx({one["label"]: one["score"] for one in shares}, abs=1e-4)
        assert row.transcript == words["text"]


def test_recordings_are_of_1_to_30_s_and_the_same_each_time(tmp_path: Path, recordings: list[Path]) -> None:
    for name, source in (("a", str(recordings[0].parent)), ("b", str(recordings[0].parent)), ("c", None)):
        total = predict.write_recordings(tmp_path / name, 5, source)
        lengths = [soundfile.info(path).duration for path in sorted((tmp_path / name).iterdir())]
        assert (min(lengths), max(lengths)) == (1.0, 30.0) and sum(lengths) == pytest.approx(total, abs=1e-3)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_folder_without_recordings_or_a_model_that_is_none_is_one_line(tmp_path: Path) -> None:
    for asked in (["--audio", str(tmp_path)], ["--model", str(tmp_path)], ["--batch-sizes", "0"]):
        done = CliRunner().invoke(app, ["bench", "predict", "--quick", *asked])
        assert isinstance(done.exception, VoxstrataError) and "\n" not in str(done.exception)


def test_8_bits_round_each_weight_by_half_a_step_at_most(encoder_folder: Path) -> None:
    model = EmotionModel(load_backbone(encoder_folder), LABELS).eval()
    plain = {
        name: part.weight.detach().clone()
        for name, part in model.encoder.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    encoders_in_int8([model, model])
    packed = {
        name: part.weight()
        for name, part in model.encoder.named_modules()
        if isinstance(part, predict.QuantizedLinear)
    }
    assert packed.keys() == plain.keys() and packed
    for name, weight in packed.items():
        # A step for each row of the weights.
        step = plain[name].abs().amax(1, keepdim=True) / 127
        assert bool(((weight.dequantize() - plain[name]).abs() <= 0.51 * step + 1e-9).all())
    assert isinstance(model.head.classifier, torch.nn.Linear)


def test_with_8_bits_a_batch_is_answered_as_its_clips_alone(model: Path, recordings: list[Path]) -> None:
    recognizer = Recognizer.load(model, int8=True)
    plain = [row.probabilities for row in Recognizer.load(model).predictions(recordings)]
    waves = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in recordings]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    batch = Batch(tuple(Reference(str(k)) for k in range(4)), padded, lengths)
    together = [row.probabilities for row in recognizer.answers([batch])]
    assert together == [row.probabilities for row in recognizer.predictions(recordings)]
    for ours, exact in zip(together, plain, strict=True):
        assert ours and ours != exact and ours == pytest.approx(exact, abs=0.1)
    for part, wave in zip(alone(batch), waves, strict=True):
        assert torch.equal(part.waveforms[0], wave)


def test_the_speed_is_told_at_the_end(model: Path, recordings: list[Path]) -> None:
    done = CliRunner().invoke(
        app, ["predict", *map(str, recordings), "--model", str(model), "--json", "--int8"]
    )
    assert done.exit_code == 0, done.output
    seconds = sum(soundfile.info(path).duration for path in recordings)
    (line,) = [line for line in done.stderr.splitlines() if "real-time factor" in line]
    assert f"{seconds:,.1f} s of sound" in line
    assert len(done.stdout.splitlines()) == len(recordings)
