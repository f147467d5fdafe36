"""An hour is answered in bounded memory, and in time that grows with its length."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from long_recordings import write_long
from voxstrata.backbone.encoder import load_backbone
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model


@pytest.fixture(scope="module")
def model(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("memory") / "model"
    save_model(EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "joy"))), folder)
    return folder


def answered(model: Path, recording: Path) -> tuple[int, float, dict]:
    """Bytes at the peak, seconds of processor time, and the answer of a process of its own."""
    out = recording.with_name(f"{recording.name}.jsonl")
    command = [sys.executable, "-m", "voxstrata.cli.main", "predict", str(recording), "--model", str(model)]
    command += ["--json", "--speech", "energy", "--out", str(out)]
    process = os.spawnve(os.P_NOWAIT, sys.executable, command, {**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    # Linux counts in kilobytes, macOS in bytes.
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, used.ru_utime + used.ru_stime, json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_hour_takes_less_than_two_gigabytes_and_linear_time(model: Path, tmp_path: Path) -> None:
    start = answered(model, write_long(tmp_path / "start.wav", 20))
    short = answered(model, write_long(tmp_path / "short.wav", 600))
    long = answered(model, write_long(tmp_path / "hour.wav", 3600))
    assert long[2]["duration"] == pytest.approx(3600)
    assert long[2]["summaries"][0]["speech"] == pytest.approx(
        6 * short[2]["summaries"][0]["speech"], rel=0.02
    )
    assert long[0] < 2 * 2**30
    # The decoded hour alone would be 230 megabytes in float32.
    assert long[0] - short[0] < 150 * 2**20
    assert (long[1] - start[1]) / (short[1] - start[1]) < 9


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
        peak, _, row = answered(model, path)
        assert peak < 2 * 2**30 and row["duration"] == pytest.approx(3600, abs=0.2)
