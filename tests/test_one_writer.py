"""Two processes never write into one place."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError
from voxstrata.runs import alone

HOLD = """
import sys, time
from pathlib import Path
from voxstrata.runs import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes OUT."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_every_command_that_writes_a_place_is_refused_while_another_does(
    holder, tmp_path, encoder_folder, expert_folders, recordings, corpus_folder
):
    out, ser = str(tmp_path / "out"), str(expert_folders["ser"])
    table = tmp_path / "calls.csv"
    table.write_text("path,emotion\n")
    for arguments in (
        ["merge", "--base", str(encoder_folder), "--vector", f"ser={ser}:1", "--out", out],
        ["export", ser, out, "--as", "encoder"],
        ["predict", str(recordings[0]), "--json", "--out", out],
        ["embed", str(recordings[0]), "--model", ser, "--out", out],
        ["adapt", "whisper-tiny.en", "--data", str(table), "--out", out],
        ["convert", "funasr", str(table), "--references", str(table), "--out", out],
        ["corpus", "prepare", "table", str(table), out],
        ["corpus", "shar", str(corpus_folder), out],
        ["corpus", "synth", out],
        ["merge-statistics", ser, "--corpus", str(corpus_folder), "--out", out],
    ):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, VoxstrataError), (arguments, done.output)
        assert str(done.exception) == (
            f"{out} is being written by another process; wait for it, or choose another place"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls.csv"]


def test_a_killed_process_holds_nothing_and_nothing_is_left(holder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(VoxstrataError, match="by another process"), alone(out):
        pass
    # Other places are free, and the same place by another name is not.
    with alone(tmp_path / "other"):
        pass
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(VoxstrataError, match="by another process"), alone(tmp_path / "link"):
        pass
    holder.kill()
    holder.wait()
    time.sleep(0.1)
    with alone(out):
        assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_standard_output_is_nobodys(encoder_folder, recordings, monkeypatch):
    def refuse(place: Path) -> None:
        raise AssertionError(place)

    monkeypatch.setattr("voxstrata.runs.alone", refuse)
    done = CliRunner().invoke(
        app, ["embed", str(recordings[0]), "--model", str(encoder_folder), "--out", "/dev/null"]
    )
    assert not isinstance(done.exception, AssertionError)
