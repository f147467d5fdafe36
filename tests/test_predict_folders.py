"""Many recordings: answers as they come, resumed after a kill, bad files named, and any way to name files."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import Result
from typer.testing import CliRunner

from long_recordings import RATE, burst, with_bursts
from subtitle_readers import read_rttm, read_srt, read_vtt
from voxstrata.backbone.encoder import load_backbone
from voxstrata.cli.main import app
from voxstrata.cli.predict_output import output_for
from voxstrata.errors import VoxstrataError
from voxstrata.inference.recognition import Recognition
from voxstrata.labels import LabelSet
from voxstrata.methods.calibration import Calibration
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.predictions import Prediction, read_predictions

pytestmark = pytest.mark.usefixtures("speech_by_level")


@pytest.fixture(scope="module")
def model(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("folders") / "model"
    made = EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "joy")))
    made.head.classifier.weight.data *= 20
    save_model(made, folder)
    return folder


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Six recordings, of which one is broken and two are called alike."""
    folder = tmp_path / "calls"
    (folder / "more").mkdir(parents=True)
    for k, name in enumerate(("a", "b", "d", "e", "more/a")):
        soundfile.write(folder / f"{name}.wav", with_bursts([(0.5, 2 + k / 4), (3.5, 5)], 6, seed=k), RATE)
    (folder / "c.wav").write_text("no audio")
    return folder


def predict(model: Path, *given: object, **kinds: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, given), "--model", str(model)], **kinds)


def ids(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


def test_a_folder_without_recordings_is_named_and_the_rest_answered(model, calls, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    done = predict(model, tmp_path / "empty", calls / "a.wav", "--json")
    empty, answered = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 3 and "empty" in empty["error"] and answered["emotion"]
    alone = predict(model, tmp_path / "empty").exception
    assert isinstance(alone, VoxstrataError) and "holds no recordings" in str(alone)


ORDER = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "more/a.wav"]


@pytest.mark.parametrize(
    "options", [("--json",), ("--json", "--timeline"), ("--csv",), ("--csv", "--timeline")]
)
def test_a_killed_folder_is_resumed(model: Path, calls: Path, tmp_path: Path, options) -> None:
    """Whatever a kill left of the file, the same command makes the file of an undisturbed one of it."""
    out = tmp_path / "out" / "answers"
    first = predict(model, calls, *options, "--out", out)
    assert first.exit_code == 3 and first.stdout == "" and "1 of 6 recordings failed" in first.stderr
    assert "c.wav: " in first.stderr and "is text" in first.stderr
    whole = out.read_bytes()
    if "--json" in options:
        assert ids(whole.decode()) == [str(calls / name) for name in ORDER]
        assert len(read_predictions(out)) == 6
    lines = whole.splitlines(keepends=True)
    cuts = {0, 1, len(lines[0]), len(whole) // 2, len(whole) - 1, len(whole)}
    cuts |= {len(b"".join(lines[:k])) + 5 for k in range(1, len(lines))}
    for cut in sorted(cuts):
        out.write_bytes(whole[:cut])
        done = predict(model, calls, *options, "--out", out)
        assert out.read_bytes() == whole, f"cut at {cut} of {len(whole)}"
        assert done.exit_code == 3 and "1 of 6 recordings failed" in done.stderr


def test_rows_that_are_there_are_kept_as_they_are(model: Path, calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    mark = json.dumps({"id": str(calls / "b.wav"), "path": "b", "emotion": "mine"}) + "\n"
    out.write_text(mark + '{"id": "torn')
    done = predict(model, calls, "--json", "--out", out)
    assert out.read_text().startswith(mark) and "has 1 recordings already" in done.stderr
    assert set(ids(out.read_text())) == {str(calls / name) for name in ORDER}


@pytest.mark.parametrize(
    ("content", "option"),
    [
        (b"my only notes\n", "--json"),
        (b"path,label\na.wav,joy\n", "--csv"),
        (b"path,emotion,error\na.wav,joy\n", "--csv"),
        (b"my only notes\n", "--rttm"),
        (b"my only notes", "--json"),
        (b"my only notes", "--csv"),
        (b"my only notes", "--rttm"),
        (b"\xff\xfe\xfd\n", "--csv"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(model, calls, tmp_path, content, option) -> None:
    out = tmp_path / "notes"
    out.write_bytes(content)
    fault = predict(model, calls, option, "--out", out).exception
    assert isinstance(fault, VoxstrataError) and str(out) in str(fault) and "\n" not in str(fault)
    assert out.read_bytes() == content


def test_turns_and_subtitles_of_a_folder_are_resumed(model: Path, calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.rttm"
    assert predict(model, calls, "--rttm", "--out", out).exit_code == 3
    whole = out.read_text()
    turns = read_rttm(whole)
    assert list(dict.fromkeys(turn[0] for turn in turns)) == ["a", "b", "d", "e", f"{calls}/more/a"]
    lines = whole.splitlines(keepends=True)
    for cut in (0, 3, len(lines[0]), len(lines[0]) + 4, len(whole) - 1):
        out.write_text(whole[:cut])
        predict(model, calls, "--rttm", "--out", out)
        assert out.read_text() == whole
    for kind, read in (("srt", read_srt), ("vtt", read_vtt)):
        folder = tmp_path / kind
        predict(model, calls, f"--{kind}", "--out", folder)
        names = ["a", "a.wav", "b", "d", "e"]
        assert sorted(path.name for path in folder.iterdir()) == [f"{name}.{kind}" for name in names]
        assert all(len(read(path.read_text())) == 2 for path in folder.iterdir())
        (folder / f"b.{kind}").unlink()
        (folder / f"a.{kind}").write_text("kept")
        predict(model, calls, f"--{kind}", "--out", folder)
        assert (folder / f"a.{kind}").read_text() == "kept" and (folder / f"b.{kind}").is_file()


def test_one_recording_as_subtitles_goes_to_standard_output(model: Path, calls: Path) -> None:
    cues = read_srt(predict(model, calls / "a.wav", "--srt").stdout)
    vtt = read_vtt(predict(model, calls / "a.wav", "--vtt").stdout)
    (row,) = [json.loads(predict(model, calls / "a.wav", "--json", "--timeline").stdout)]
    assert [cue[:2] for cue in cues] == [cue[:2] for cue in vtt]
    assert [cue[:2] for cue in cues] == [(part["start"], part["end"]) for part in row["segments"]]
    assert [cue[2] for cue in cues] == [f"({part['emotion']})" for part in row["segments"]]
    fault = predict(model, calls, "--srt").exception
    assert isinstance(fault, VoxstrataError) and "--out FOLDER" in str(fault)


def test_a_table_of_segments_has_their_times(model: Path, calls: Path) -> None:
    done = predict(model, calls, "--csv", "--timeline")
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    rows = [json.loads(line) for line in predict(model, calls, "--json", "--timeline").stdout.splitlines()]
    expected = [(row["path"], part) for row in rows for part in row.get("segments", [{}])]
    assert [row["path"] for row in table] == [path for path, _ in expected]
    for row, (_, part) in zip(table, expected, strict=True):
        assert row["start"] == (f"{part['start']:.3f}" if part else "")
        assert row["emotion"] == part.get("emotion", "") and bool(row["error"]) == (not part)


def test_rows_come_one_by_one_and_a_kill_leaves_the_first_ones(model, calls: Path, tmp_path: Path) -> None:
    """The third recording is on a pipe to which nobody writes: the rows before it are there already."""
    out = tmp_path / "answers.jsonl"
    given = [str(calls / "a.wav"), str(calls / "b.wav"), "-", "--json", "--out", str(out)]
    command = [sys.executable, "-m", "voxstrata.cli.main", "predict", *given, "--model", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for _ in range(2400):
            if process.poll() is not None or (out.is_file() and out.read_text().count("\n") == 2):
                break
            time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert ids(out.read_text()) == given[:2]
    done = predict(model, *given, input=(calls / "d.wav").read_bytes())
    assert done.exit_code == 0 and ids(out.read_text()) == given[:3]


def test_recordings_are_named_in_any_way(model: Path, calls: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(calls)
    (calls / "odd[1].wav").write_bytes((calls / "a.wav").read_bytes())
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"b.wav\r\n\nd.wav\n")
    for given, expected in (
        (["[ab].wav"], ["a.wav", "b.wav"]),
        (["**/a.wav"], ["a.wav", "more/a.wav"]),
        (["odd[1].wav"], ["odd[1].wav"]),
        ([str(calls / "?.wav"), "--limit", 1], [str(calls / "a.wav")]),
        (["--files-from", listed], ["b.wav", "d.wav"]),
        (["e.wav", "--files-from", listed], ["e.wav", "b.wav", "d.wav"]),
        ([".", "--limit", 2], ["a.wav", "b.wav"]),
    ):
        assert ids(predict(model, *given, "--json").stdout) == expected
    done = predict(model, "--files-from", "-", "--json", input="a.wav\nmore/a.wav\n")
    assert ids(done.stdout) == ["a.wav", "more/a.wav"]


def test_a_recording_comes_from_standard_input(model: Path, calls: Path) -> None:
    content = (calls / "a.wav").read_bytes()
    row = json.loads(predict(model, "-", "--json", input=content).stdout)
    alone = json.loads(predict(model, calls / "a.wav", "--json").stdout)
    assert row == {**alone, "id": "-", "path": "-"}
    assert read_rttm(predict(model, "-", "--rttm", input=content).stdout)[0][0] == "-"
    done = predict(model, "-", "--json", input=b"no audio, but text")
    assert done.exit_code == 3 and "is text" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to answer"),
        (["none*.wav"], "no file fits 'none\\*.wav'"),
        (["-", "--files-from", "-"], "standard input .* once"),
        (["--files-from", "none.txt"], "cannot read the list of paths none.txt"),
        (["--files-from", "empty.txt"], "list of paths in empty.txt is empty"),
        (["--files-from", "calls/a.wav"], "is no list of paths"),
        (["calls/a.wav", "--json", "--srt"], "--json and --srt were both given; choose one"),
        (["calls/a.wav", "--out", "x"], "needs a format"),
        (["calls/a.wav", "--json", "--out", "calls"], "is a folder"),
        (["calls/a.wav", "--srt", "--out", "empty.txt"], "is a file"),
        (["calls/a.wav", "--json", "--out", "empty.txt/x"], "cannot write to"),
        (["calls/a.wav", "--channels", "left"], "channels is 'left'"),
        (["calls/a.wav", "--turns", "none.rttm"], "cannot read turns"),
    ],
)
def test_faults_of_what_is_given_are_one_line(model, calls, tmp_path, monkeypatch, given, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    fault = predict(model, *given).exception
    assert isinstance(fault, VoxstrataError) and "\n" not in str(fault)
    with pytest.raises(VoxstrataError, match=message):
        raise fault


def test_clips_of_a_corpus_are_resumed_and_have_no_times(model, corpus_folder, tmp_path) -> None:
    out = tmp_path / "answers.jsonl"
    predict(model, corpus_folder, "--json", "--out", out)
    whole = read_predictions(out)
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:2]))
    predict(model, corpus_folder, "--json", "--out", out)
    assert sorted(row.id for row in read_predictions(out)) == sorted(row.id for row in whole)
    assert predict(model, corpus_folder, "--json", "--out", out).exit_code == 0
    predict(model, corpus_folder, "--csv", "--out", tmp_path / "table.csv")
    fault = predict(model, corpus_folder, "--csv", "--out", tmp_path / "table.csv").exception
    assert isinstance(fault, VoxstrataError) and "resumed with --json" in str(fault)
    for options in (("--timeline",), ("--srt",), ("--channels", "split")):
        fault = predict(model, corpus_folder, *options).exception
        assert isinstance(fault, VoxstrataError) and "answered whole" in str(fault)


def test_people_read_segments_and_summaries(model: Path, tmp_path: Path) -> None:
    left, right = with_bursts([(1, 4)], 8), with_bursts([(5, 7)], 8, seed=4)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), RATE)
    done = predict(model, tmp_path / "call.wav", "--channels", "split")
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "call.wav") and sum(" - 0:00:0" in line for line in lines) == 2
    assert lines[-2].startswith("  channel 1: 0:00:03 of speech: ") and "channel 2: 0:00:02" in lines[-1]
    soundfile.write(tmp_path / "short.wav", burst(1, 1.0), RATE)
    assert predict(model, tmp_path / "short.wav").stdout.count("\n") == 2


@pytest.mark.parametrize("kind", ["json", "csv", "rttm", "srt", "vtt"])
def test_answers_of_another_model_are_not_gone_on_with(
    model: Path, calls: Path, tmp_path: Path, kind: str
) -> None:
    """One changed weight is another model; a copy of the same one elsewhere is not."""
    out = tmp_path / "out"
    first = calls / "a.wav"
    assert predict(model, first, f"--{kind}", "--timeline", "--out", out).exit_code == 0
    places = sorted(out.iterdir()) if out.is_dir() else [out]
    before = [place.read_bytes() for place in places]
    other, copied = tmp_path / "other", tmp_path / "copied"
    shutil.copytree(model, copied)
    changed = load_model(model)
    changed.head.classifier.weight.data[0, 0] += 1e-3
    save_model(changed, other)
    for asked, channels, named in ((other, "mix", f"({model}) than {other}"), (model, "split", "mix")):
        given = (calls / "b.wav", f"--{kind}", "--timeline", "--channels", channels, "--out", out)
        fault = predict(asked, *given).exception
        assert isinstance(fault, VoxstrataError) and str(out) in str(fault) and named in str(fault)
        assert [place.read_bytes() for place in places] == before
    done = predict(copied, first, calls / "b.wav", f"--{kind}", "--timeline", "--out", out)
    assert done.exit_code == 0
    assert [place.read_bytes()[: len(was)] for place, was in zip(places, before, strict=True)] == before
    for place in places:
        place.unlink()
    for place in out.iterdir() if out.is_dir() else [out]:
        place.unlink(missing_ok=True)
    assert predict(other, first, f"--{kind}", "--timeline", "--out", out).exit_code == 0


def test_answers_of_other_probabilities_are_not_gone_on_with(
    model: Path, calls: Path, tmp_path: Path
) -> None:
    out, first = tmp_path / "answers.jsonl", calls / "a.wav"
    assert predict(model, first, "--json", "--out", out).exit_code == 0
    before = out.read_bytes()
    warmer = load_model(model)
    warmer.calibration = Calibration(temperature=2.0)
    save_model(warmer, tmp_path / "warmer")
    others = [(tmp_path / "warmer", ()), (model, ("--unsure-below", "0.5")), (model, ("--int8",))]
    for asked, options in others:
        fault = predict(asked, first, "--json", "--out", out, *options).exception
        assert isinstance(fault, VoxstrataError) and str(out) in str(fault)
        assert out.read_bytes() == before


def test_a_file_that_does_not_tell_its_model_is_gone_on_with_and_said(model, calls, tmp_path) -> None:
    out = tmp_path / "answers.jsonl"
    out.write_text(json.dumps({"id": str(calls / "b.wav"), "emotion": "joy"}) + "\n")
    done = predict(model, calls / "a.wav", "--json", "--out", out)
    assert done.exit_code == 0 and "does not tell which model" in done.stderr
    # From now on it does.
    assert "does not tell" not in predict(model, calls / "a.wav", "--json", "--out", out).stderr


@pytest.mark.parametrize("kind", ["rttm", "srt", "vtt"])
def test_a_recording_without_speech_is_said(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The empty answer has a reason on standard error."""
    output = output_for(kind, None, timed=True, recordings=1)
    output.left([Path("a.wav"), Path("b.wav")])
    none = Prediction("a.wav", "a.wav", note="channel 1: no speech found")
    output.write([Recognition((), None, (), none), Recognition((), None, (), replace(none, note=None))])
    assert capsys.readouterr().err == "a.wav: channel 1: no speech found\na.wav: no speech found\n"
