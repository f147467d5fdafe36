"""What a hostile tester found: each input is one of a kind, and gets one clear line or the right answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.config.data import CorpusUse, Data
from voxstrata.corpora import own_table
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import CorpusError, LabelError, PredictionsError, VoxstrataError
from voxstrata.evaluation.score import score
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.labels import LabelSet
from voxstrata.predictions import read_predictions


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("inside", ["", "/encoder", "/new"])
def test_an_export_into_what_it_exports_is_refused(encoder: Any, tmp_path: Path, inside: str) -> None:
    from voxstrata.methods.encoder_models import EmotionModel
    from voxstrata.methods.model_folder import save_model

    save_model(EmotionModel(encoder, LabelSet(("a", "b"))), tmp_path / "run" / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for target in (f"{tmp_path}/run/model{inside}", f"{tmp_path}/run"):
        done = run("export", tmp_path / "run", target, "--overwrite", "--dtype", "float16")
        assert isinstance(done.exception, VoxstrataError), done.output
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_label_without_a_name_is_refused() -> None:
    with pytest.raises(
        LabelError, match=r"a label has no name; name each of \['anger', ' '\], or leave it out"
    ):
        LabelSet(("anger", " "))


def clips(folder: Path, header: str, *rows: str) -> Path:
    for step, row in enumerate(rows):
        name = folder / row.partition(",")[0]
        soundfile.write(name, 0.1 * np.sin(np.arange(16_000) / (5 + step)), 16_000)
    path = folder / "x.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_speakers_that_differ_only_in_capitals_are_refused(tmp_path: Path) -> None:
    table = clips(tmp_path, "path,speaker,split", "a.wav,Ann,train", "b.wav,ann,test")
    with pytest.raises(
        CorpusError, match=r"speakers differ only in capitals or spaces: 'x-Ann' \(clip x/a\) and"
    ):
        prepare("table", table, tmp_path / "prepared")


@pytest.mark.parametrize("nothing", ["nan", "NA", "N/A", "None", "<NA>", "NULL"])
def test_what_programs_write_for_nothing_is_nothing(tmp_path: Path, nothing: str) -> None:
    (tmp_path / "x.csv").write_text(f"path,emotion,speaker,text\na.wav,{nothing},{nothing},{nothing}\n")
    (clip,) = own_table.read(tmp_path / "x.csv")
    assert clip.emotion is None and clip.speaker is None


@pytest.mark.parametrize("path", ["https://x.org/a.wav", "s3://bucket/a.wav", "file:///a.wav"])
def test_a_url_in_the_place_of_a_file_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "x.csv").write_text(f"path\n{path}\n")
    with pytest.raises(CorpusError, match="is a URL; download it, and give the file's path"):
        own_table.read(tmp_path / "x.csv")


def test_one_corpus_spelled_in_two_ways_is_named_twice() -> None:
    with pytest.raises(ValueError, match="p1 is named twice; name each corpus once"):
        Data(corpora=(CorpusUse(path="p1"), CorpusUse(path="./p1/")))
    assert Data(corpora=(CorpusUse(path="./p1/"),)).corpora[0].path == "./p1/"


@pytest.mark.parametrize("tflops", ["nan", "inf", "0", "-1"])
def test_a_throughput_that_is_none_is_refused(tflops: str) -> None:
    done = run("train", "finetune-ser", "--dry-run", "--tflops", tflops)
    assert isinstance(done.exception, VoxstrataError) and "--tflops is" in str(done.exception)


@pytest.mark.parametrize("at", ["nan", "1e30", "x", ""])
def test_coefficients_of_the_curve_are_bounded(tmp_path: Path, at: str) -> None:
    done = run("curve", tmp_path, "--emotions", tmp_path, "--words", tmp_path, "--ctc", tmp_path, "--at", at)
    assert "give numbers from -10 to 10" in str(done.exception) + done.output


@pytest.mark.parametrize("lengths", ["1e9", "nan", "0.01", "1,inf"])
def test_lengths_of_the_attention_benchmark_are_bounded(lengths: str) -> None:
    done = run("bench", "attention", "--quick", "--clips", lengths)
    assert "give seconds from 0.1 to 600" in str(done.exception) + done.output


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"corpora": {"c": {"reader": "nope", "folder": "x"}}}, "is no reader 'nope'; there are ravdess,"),
        ({"axes": {"seed": []}}, "axes.seed is empty; give one seed at least"),
        ({"axes": {"seed": [0, 0]}}, "axes.seed holds one value twice: 0, 0; keep one"),
    ],
)
def test_a_table_whose_scale_cannot_run_is_refused(tmp_path: Path, scale: dict, message: str) -> None:
    table = {
        "title": "T",
        "columns": ["uar"],
        "runs": {"a": {"recipe": "statistics"}},
        "rows": [{"run": "a", "title": "a"}],
        "scales": {"s": {"corpora": {}, **scale}},
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(VoxstrataError, match=message) as fault:
        read_table_spec(tmp_path / "t.yaml")
    assert "\n" not in str(fault.value)


def rows(folder: Path, **fields: Any) -> Path:
    path = folder / "p.jsonl"
    row = {"id": "1", "emotion": "a", "reference_emotion": "b"} | fields
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "2", "reference_emotion": "a"}) + "\n")
    return path


def test_an_empty_error_is_none(tmp_path: Path) -> None:
    found = read_predictions(rows(tmp_path, error=""))
    assert [row.error for row in found] == [None, None]
    assert score(found).emotion is not None


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines"])
def test_names_of_classes_are_one_line(tmp_path: Path, name: str) -> None:
    for fields in ({"classes": {"sex": {name: 1.0}}}, {"reference_classes": {"sex": name}}):
        with pytest.raises(PredictionsError, match="of names of one line, without control characters"):
            read_predictions(rows(tmp_path, **fields))
