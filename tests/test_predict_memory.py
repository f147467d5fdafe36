"""An hour is answered in bounded memory, and what the encoder hears grows with its length alone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from long_recordings import RATE, write_long
from voxstrata.backbone.encoder import load_backbone
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import load_model, save_model


@pytest.fixture(scope="module")
def model(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("memory") / "model"
    save_model(EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "joy"))), folder)
    return folder


def answered(model: Path, recording: Path) -> tuple[int, dict]:
    """Bytes at the peak, and the answer of a process of its own."""
    out = recording.with_name(f"{recording.name}.jsonl")
    command = [sys.executable, "-m", "voxstrata.cli.main", "predict", str(recording), "--model", str(model)]
    command += ["--json", "--speech", "energy", "--out", str(out)]
    process = os.spawnve(os.P_NOWAIT, sys.executable, command, {**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    # Linux counts in kilobytes, macOS in bytes.
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_hour_takes_less_than_two_gigabytes(model: Path, tmp_path: Path) -> None:
    short = answered(model, write_long(tmp_path / "short.wav", 600))
    long = answered(model, write_long(tmp_path / "hour.wav", 3600))
    assert long[1]["duration"] == pytest.approx(3600)
    speech_s = short[1]["summaries"][0]["speech"]
    assert long[1]["summaries"][0]["speech"] == pytest.approx(6 * speech_s, rel=0.02)
    assert long[0] < 2 * 2**30
    # The decoded hour alone would be 230 megabytes in float32.
    assert long[0] - short[0] < 150 * 2**20


def test_the_encoder_hears_each_second_about_once_however_long_it_is(model: Path, tmp_path: Path) -> None:
    def heard_s(seconds: float) -> float:
        recognizer = Recognizer([load_model(model)])
        lengths: list[int] = []
        encoder = recognizer.models[0].encoder
        encoder.register_forward_pre_hook(lambda _, given: lengths.extend(given[1].tolist()))
        recording = write_long(tmp_path / f"{seconds:.0f}.wav", seconds)
        list(recognizer.segments(recording, speech="energy"))
        return sum(lengths) / RATE

    minute, six = heard_s(64.0), heard_s(384.0)
    assert 0.75 * 64 < minute < 1.1 * 64
    assert six == pytest.approx(6 * minute, rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_other_formats_and_rates_of_an_hour_are_bounded_too(model: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    plain = write_long(tmp_path / "hour.flac", 3600, rate=44_100)
    coded = tmp_path / "hour.m4a"
    with av.open(str(plain)) as source, av.open(str(coded), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        stream.layout = "mono"
        for frame in source.decode(audio=0):
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    for path in (plain, coded):
        peak, row = answered(model, path)
        assert peak < 2 * 2**30 and row["duration"] == pytest.approx(3600, abs=0.2)
