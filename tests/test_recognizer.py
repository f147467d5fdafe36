"""Recordings in, answers out: from run folders, file by file, also where some files are bad."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from recorded import batch
from voxstrata.audio import load_with_remarks
from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.cli.main import app
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.shar import write_shar
from voxstrata.errors import AudioError, CheckpointError, CorpusError
from voxstrata.evaluation.score import score
from voxstrata.heads.ctc import CTCHead
from voxstrata.inference import given
from voxstrata.inference.path import predict
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel, TranscriptionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.predictions import read_predictions
from voxstrata.runs import RunFolder, write_json
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("neutral", "anger", "joy"))


@pytest.fixture(scope="module")
def runs(expert_folders, tmp_path_factory) -> Path:
    """Two experts and a merged run that names them as its parents."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    ser = EmotionModel(load_backbone(expert_folders["ser"]), LABELS)
    ser.head.classifier.weight.data *= 20
    asr = load_backbone(expert_folders["asr"])
    save_model(
        TranscriptionModel(asr, CTCHead(asr.hidden_size, Vocabulary(("a", "b", "c")))), folder / "asr/model"
    )
    save_model(ser, folder / "ser/model")
    save_model(ser, folder / "dual/model")
    parents = {"ser": str(folder / "ser"), "asr": str(folder / "asr")}
    write_json(RunFolder(folder / "dual").provenance, {"parents": parents})
    return folder


def test_a_merged_run_tells_emotion_and_its_experts_words(runs, recordings):
    found = Recognizer.load(runs / "dual")(recordings[0])
    (emotion,) = predict(load_model(runs / "ser/model"), [batch(recordings[:1])])
    (words,) = predict(load_model(runs / "asr/model"), [batch(recordings[:1])])
    assert words.transcript
    assert (found.emotion, found.probabilities) == (emotion.emotion, emotion.probabilities)
    assert found.transcript == words.transcript
    (segment,) = found.segments
    assert (segment.start_s, segment.end_s) == (0.0, soundfile.info(recordings[0]).duration)
    assert (segment.emotion, segment.transcript) == (emotion.emotion, words.transcript)
    assert found.summaries == () and found.as_dict() == found.row.as_dict()


def test_probabilities_sum_to_one_and_the_emotion_is_the_highest(runs, recordings):
    for row in Recognizer.load(runs / "dual").predictions(recordings):
        assert row.probabilities.keys() == set(LABELS)
        assert sum(row.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row.probabilities[row.emotion] == max(row.probabilities.values())


def test_what_a_model_cannot_tell_is_none(runs, recordings):
    heard = Recognizer.load(runs / "asr")(recordings[0])
    assert (heard.emotion, heard.probabilities) == (None, None) and heard.transcript
    felt = Recognizer.load(str(runs / "ser/model"))(recordings[0])
    assert felt.transcript is None and felt.emotion in LABELS


@pytest.mark.parametrize("name", ["ser", "asr"])
def test_a_batch_is_answered_as_its_clips_one_by_one(name, runs, recordings):
    model = load_model(runs / name / "model")
    together = list(predict(model, [batch(recordings)]))
    single = [row for path in recordings for row in predict(model, [batch([path])])]
    assert [row.id for row in together] == [str(path) for path in recordings]
    for a, b in zip(together, single, strict=True):
        assert (a.emotion, a.transcript) == (b.emotion, b.transcript)
        if a.probabilities is not None and b.probabilities is not None:
            for label in LABELS:
                assert a.probabilities[label] == pytest.approx(b.probabilities[label], abs=1e-5)


def test_prediction_leaves_the_mode_of_the_model(runs, recordings):
    model = load_model(runs / "ser/model")
    for training in (True, False):
        model.train(training)
        rows = predict(model, [batch(recordings[:2])])
        next(rows)
        rows.close()
        assert model.training is training


@pytest.fixture
def bad(tmp_path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.wav" for name in ("broken", "short", "absent")}
    paths["broken"].write_text("no audio")
    soundfile.write(paths["short"], np.linspace(-0.1, 0.1, 100), 16_000)
    return paths


def test_a_bad_file_is_a_row_with_its_error_and_the_rest_goes_on(runs, recordings, bad):
    paths = [recordings[0], *bad.values(), recordings[1]]
    rows = list(Recognizer.load(runs / "dual").predictions(paths))
    assert [row.id for row in rows] == [str(path) for path in paths]
    assert [row.error is None for row in rows] == [True, False, False, False, True]
    for row in rows[1:4]:
        assert row.emotion is None and row.transcript is None and row.error
    with pytest.raises(AudioError):
        Recognizer.load(runs / "dual")(bad["broken"])


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (RuntimeError("[fail] DefaultCPUAllocator: can't allocate memory: you tried\nframe #0"), "too long"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "too long"),
        (MemoryError(), "too long for the memory there is; cut it"),
        (RuntimeError("\nshapes differ\nframe #0"), r"RuntimeError: shapes differ\); leave"),
        (ValueError("odd"), "ValueError: odd"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_whatever_a_recording_causes_stays_its_own(runs, recordings, monkeypatch, fault, told):
    def load(path):
        if path == recordings[1]:
            raise fault
        return load_with_remarks(path)

    monkeypatch.setattr(given, "load_with_remarks", load)
    rows = list(Recognizer.load(runs / "ser").predictions(recordings[:3]))
    assert [row.id for row in rows] == [str(path) for path in recordings[:3]]
    assert [row.error is None for row in rows] == [True, False, True]
    assert re.search(told, rows[1].error) and "\n" not in rows[1].error


@pytest.fixture
def latin(recordings, tmp_path) -> Path:
    """A folder of a recording and of what is none, both with a name in Latin-1, and one in Turkish."""
    if sys.platform != "linux":
        pytest.skip("file names are any bytes on Linux only")
    folder = tmp_path / "latin"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.wav")).write_bytes(recordings[0].read_bytes())
    (folder / os.fsdecode(b"no\xe9l.wav")).write_text("no audio")
    (folder / "ışık.wav").write_bytes(recordings[1].read_bytes())
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("how", [(), ("--json",)])
def test_names_that_are_no_text_are_answered_and_escaped(runs, latin, how, encoding):
    runner = CliRunner()
    runner.charset = encoding
    done = runner.invoke(app, ["predict", str(latin), "--model", str(runs / "ser"), *how])
    assert done.exit_code == 3 and isinstance(done.exception, SystemExit), done.output
    turkish = "ışık.wav" if encoding == "utf-8" else r"\u0131\u015f\u0131k.wav"
    assert turkish in done.stdout and r"caf\udce9.wav" in done.stdout.replace("\\\\", "\\")
    assert "1 of 3 recordings failed" in done.stderr
    if how:
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert {Path(row["id"]).name: "error" in row for row in rows} == {
            r"caf\udce9.wav": False,
            r"no\udce9l.wav": True,
            "ışık.wav": False,
        }


def test_any_level_is_heard_alike_in_files_and_in_batches(runs, recordings, tmp_path):
    samples, rate = soundfile.read(recordings[4], dtype="float32")
    samples /= np.abs(samples).max()
    with (tmp_path / "levels.csv").open("w") as table:
        table.write("path,emotion\n")
        for name, gain in (("plain", 1), ("integers", 32_767), ("hot", 8), ("quiet", 1e-5)):
            soundfile.write(tmp_path / f"{name}.wav", samples * np.float32(gain), rate, subtype="FLOAT")
            table.write(f"{name}.wav,joy\n")
    corpus = prepare("table", tmp_path / "levels.csv", tmp_path / "prepared")
    packed = write_shar(corpus, tmp_path / "shar")
    heard = Recognizer.load(runs / "ser")
    files = list(heard.predictions(sorted(tmp_path.glob("*.wav"))))
    for source in (corpus, packed):
        (audio,) = BatchSource(source.stream("train"), BatchOptions(shuffle=False)).epoch(0)
        assert torch.equal(audio.waveforms, audio.waveforms[:1].expand(4, -1))
        assert (audio.waveforms.abs() > 0.9999).float().mean() < 0.01
        for row in (*files, *heard.answers(heard.batches_of(source, "train").epoch(0))):
            assert row.probabilities == pytest.approx(files[0].probabilities, abs=1e-3)


def test_folders_without_a_model_are_refused(runs, tmp_path):
    with pytest.raises(CheckpointError, match="holds no model"):
        Recognizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="holds no model"):
        Recognizer.load(runs / "nobody")


def cli(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_predict_answers_all_it_can_and_exits_with_3(runs, recordings, bad):
    done = cli(recordings[0], bad["broken"], recordings[1], "--model", runs / "dual", "--json")
    assert done.exit_code == 3
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [str(p) for p in (recordings[0], bad["broken"], recordings[1])]
    assert ["error" in row for row in rows] == [False, True, False]
    assert {"emotion", "probabilities", "transcript"} <= rows[0].keys()
    assert "1 of 3 recordings failed" in done.stderr


def test_predict_takes_folders_and_speaks_to_people(runs, recordings):
    done = cli(recordings[0].parent, "--model", runs / "dual")
    assert done.exit_code == 0
    for path in recordings:
        assert str(path) in done.stdout
    assert done.stdout.count("(") == len(recordings) and done.stdout.count('"') == 2 * len(recordings)


@pytest.fixture
def prepared(recordings, tmp_path) -> Path:
    """A corpus of the recordings: two train, three test."""
    rows = [
        {
            "path": str(path),
            "split": "test" if i > 1 else "train",
            "speaker": f"ann-{i > 1}",
            "emotion": "joy",
            "text": "a b",
        }
        for i, path in enumerate(recordings)
    ]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", tmp_path / "table.jsonl", tmp_path / "prepared")
    return tmp_path / "prepared"


def test_a_prepared_corpus_is_answered_with_its_references(runs, recordings, prepared, tmp_path):
    done = cli(prepared, "--model", runs / "dual", "--json")
    assert done.exit_code == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    by_path = {row["path"]: row for row in rows}
    assert by_path.keys() == {str(path) for path in recordings[2:]}
    alone = Recognizer.load(runs / "dual")
    for path in recordings[2:]:
        row, heard = by_path[str(path)], alone(path)
        assert (row["emotion"], row["transcript"]) == (heard.emotion, heard.transcript)
        assert (row["reference_emotion"], row["reference_transcript"]) == ("joy", "a b")
        assert row["speaker"].startswith("table-ann-")
    (tmp_path / "x.jsonl").write_text(done.stdout)
    scores = score(read_predictions(tmp_path / "x.jsonl"))
    assert scores.clips == 3 and scores.emotion is not None and scores.transcript is not None
    assert len(cli(prepared, "--split", "train", "--model", runs / "asr", "--json").stdout.splitlines()) == 2


def test_a_limit_answers_a_few_of_each_folder_and_corpus(runs, recordings, prepared):
    given = (recordings[0].parent, prepared, "--model", runs / "dual", "--json")
    ids = [
        [json.loads(line)["id"] for line in cli(*given, *more).stdout.splitlines()]
        for more in ((), ("--limit", 2))
    ]
    few = [name for name in ids[1] if name.startswith("table/")]
    assert len(few) == len(ids[1]) - 2 == 2 and ids[1][:2] == ids[0][:2] and set(ids[1]) < set(ids[0])


def test_what_a_corpus_has_not_is_told(runs, recordings, prepared):
    assert "none was given" in str(cli(recordings[0], "--split", "dev", "--model", runs / "dual").exception)
    for arguments, told in ((("--split", "dev"), "dev"), (("--fold", 1), "fold")):
        fault = cli(prepared, *arguments, "--model", runs / "dual").exception
        assert isinstance(fault, CorpusError) and told in str(fault)


def test_predict_names_a_bad_file_on_stderr(runs, recordings, bad):
    done = cli(bad["short"], "--model", runs / "dual")
    assert done.exit_code == 3 and str(bad["short"]) in done.stderr and done.stdout == ""


def test_a_moved_family_of_runs_still_tells_the_words(runs, recordings, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("asr", "ser", "dual"):
        save_model(load_model(runs / name / "model"), moved / name / "model")
    write_json(RunFolder(moved / "dual").provenance, {"parents": {"ser": "../ser", "asr": "../asr"}})
    expected = Recognizer.load(runs / "dual")(recordings[0]).transcript
    monkeypatch.chdir(moved)
    for path in (moved / "dual", Path("dual"), Path("../elsewhere/dual")):
        assert Recognizer.load(path)(recordings[0]).transcript == expected


def test_real_recordings_are_answered_alone_as_together(runs, real_data):
    paths = sorted((real_data / "RAVDESS" / "Actor_24").iterdir())[:2]
    paths += sorted((real_data / "AN4" / "wav").rglob("*.*"))[:2]
    rows = list(Recognizer.load(runs / "dual").predictions(paths))
    assert [row.error for row in rows] == [None] * 4
    together = list(predict(load_model(runs / "ser/model"), [batch(paths)]))
    for a, b in zip(rows, together, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)


def test_predict_writes_a_table(runs, recordings, bad):
    asked = (bad["broken"], recordings[0], recordings[1], bad["absent"], "--model", runs / "dual")
    done = cli(*asked, "--csv")
    told = [json.loads(line) for line in cli(*asked, "--json").stdout.splitlines()]
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert done.exit_code == 3 and "2 of 4 recordings failed" in done.stderr
    probabilities = [f"probability:{name}" for name in LABELS]
    assert list(table[0]) == ["path", "emotion", *probabilities, "transcript", "note", "error"]
    for row, known in zip(table, told, strict=True):
        assert all(row[name] == known.get(name, "") for name in ("path", "emotion", "transcript", "error"))
        for name in LABELS:
            cell = row[f"probability:{name}"]
            assert (float(cell) if cell else None) == (known.get("probabilities") or {}).get(name)
    assert "choose one" in str(cli(*asked, "--csv", "--json").exception)


def test_a_table_without_any_answer_has_its_columns(runs, bad):
    done = cli(bad["broken"], "--model", runs / "dual", "--csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert list(row) == ["path", "emotion", "transcript", "note", "error"] and "is text" in row["error"]
