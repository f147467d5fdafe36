"""Another class prior at prediction, and answers that are marked as unsure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from voxstrata.backbone.encoder import load_backbone
from voxstrata.cli.main import app
from voxstrata.errors import VoxstrataError
from voxstrata.inference.printed import readable, table_lines
from voxstrata.inference.recognition import Segment, of_one_clip, of_segments
from voxstrata.inference.recognizer import Recognizer
from voxstrata.inference.rttm import rttm_lines
from voxstrata.inference.subtitles import srt_lines, vtt_lines
from voxstrata.labels import LabelSet
from voxstrata.methods.calibration import Calibration
from voxstrata.methods.encoder_models import DimensionModel, EmotionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.predictions import Prediction, parse_predictions

PRIOR = {"anger": 0.5, "joy": 0.2, "neutral": 0.3}


@pytest.fixture
def saved(tmp_path: Path, encoder_folder: Path) -> Callable[..., Path]:
    """A model folder with any calibration."""

    def make(calibration: Calibration | None = None) -> Path:
        import torch

        torch.manual_seed(3)
        model = EmotionModel(load_backbone(encoder_folder), LabelSet(tuple(PRIOR))).eval()
        with torch.no_grad():
            model.head.classifier.weight.mul_(20)
        model.calibration = calibration or Calibration(1.0, PRIOR)
        save_model(model, tmp_path / "model")
        return tmp_path / "model"

    return make


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    paths = []
    for k, seconds in enumerate((1.0, 1.7, 0.9)):
        path = tmp_path / "calls" / f"{k}.wav"
        path.parent.mkdir(exist_ok=True)
        # Loud and quiet in turn, as speech is.
        level = np.where(np.arange(round(16000 * seconds)) // 4000 % 2, 0.1, 0.001)
        soundfile.write(path, level * draw.standard_normal(len(level)), 16000)
        paths.append(path)
    return paths


def test_another_prior_is_bayes_rule_over_the_prior_of_the_training(
    saved: Callable[..., Path], recordings: list[Path]
) -> None:
    folder = saved()
    plain = list(Recognizer.load(folder).predictions(recordings))
    wanted = {"anger": 0.1, "joy": 0.8, "neutral": 0.1}
    for prior in (wanted, "anger=1,joy=8,neutral=1"):
        found = list(Recognizer.load(folder, prior=prior).predictions(recordings))
        for before, after in zip(plain, found, strict=True):
            assert before.probabilities and after.probabilities
            weights = {name: p * wanted[name] / PRIOR[name] for name, p in before.probabilities.items()}
            total = sum(weights.values())
            assert after.probabilities == pytest.approx({n: w / total for n, w in weights.items()})
            assert after.emotion == max(weights, key=weights.__getitem__)
    same = list(Recognizer.load(folder, prior=PRIOR).predictions(recordings))
    for before, after in zip(plain, same, strict=True):
        assert before.probabilities and after.probabilities == pytest.approx(before.probabilities)


def test_windows_of_a_long_recording_are_for_the_prior_too(
    saved: Callable[..., Path], recordings: list[Path]
) -> None:
    folder = saved()
    recognizer = Recognizer.load(folder, prior={"anger": 0, "joy": 1, "neutral": 0})
    flat = recognizer(recordings[1], timeline=True, speech="energy")
    assert {part.emotion for part in flat.segments} == {"joy"} and flat.emotion == "joy"


def test_a_class_that_training_never_had_is_never_answered(
    saved: Callable[..., Path], recordings: list[Path]
) -> None:
    folder = saved(Calibration(1.0, {"anger": 0.5, "joy": 0.5, "neutral": 0.0}))
    found = Recognizer.load(folder, prior="uniform")(recordings[0])
    assert found.probabilities is not None and found.probabilities["neutral"] == 0
    assert sum(found.probabilities.values()) == pytest.approx(1)
    with pytest.raises(VoxstrataError, match="has learned"):
        Recognizer.load(folder, prior="anger=0,joy=0,neutral=1")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prior": "anger=1"}, "prior lacks joy, neutral"),
        ({"prior": "anger=1,joy=1,neutral=1,fun=2"}, "names fun"),
        ({"prior": "nothing"}, "no prior 'nothing'"),
        ({"prior": {"anger": -1, "joy": 1, "neutral": 1}}, "numbers from 0 on"),
        ({"unsure_below": 1.5}, "above 0, up to 1"),
        ({"unsure_below": float("nan")}, "above 0, up to 1"),
        ({"unsure_below": 0.0}, "above 0, up to 1"),
    ],
)
def test_what_does_not_hold_is_one_line(saved: Callable[..., Path], asked: dict, words: str) -> None:
    with pytest.raises(VoxstrataError, match=words) as fault:
        Recognizer.load(saved(), **asked)
    assert "\n" not in str(fault.value)


def test_without_a_stored_prior_another_one_cannot_be_had(
    saved: Callable[..., Path], recordings: list[Path]
) -> None:
    done = CliRunner().invoke(
        app, ["predict", str(recordings[0]), "--model", str(saved(Calibration())), "--prior", "uniform"]
    )
    assert isinstance(done.exception, VoxstrataError)
    assert "is not stored with it" in str(done.exception) and "train the model" in str(done.exception)


def test_ratings_have_no_prior_and_are_never_unsure(encoder_folder: Path) -> None:
    model = DimensionModel(load_backbone(encoder_folder)).eval()
    for asked in ({"prior": "uniform"}, {"unsure_below": 0.5}):
        with pytest.raises(VoxstrataError, match="emotions as classes"):
            Recognizer([model], **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "told",
    [
        {"temperature": 0.0},
        {"temperature": -1},
        {"temperature": "1"},
        {"temperature": True},
        {"prior": {"anger": 1}},
        {"prior": {"anger": -1, "joy": 1, "neutral": 1}},
        {"prior": []},
        [],
        "warm",
    ],
)
def test_a_calibration_that_does_not_hold_is_refused(saved: Callable[..., Path], told: object) -> None:
    place = saved() / "model.json"
    about = json.loads(place.read_text()) | {"calibration": told}
    place.write_text(json.dumps(about))
    with pytest.raises(VoxstrataError, match=r"calibration|temperature|prior"):
        load_model(place.parent)


UNSURE = Prediction("a", path="a.wav", emotion="anger", probabilities={"anger": 0.4, "joy": 0.6}, unsure=True)


def test_unsure_answers_are_marked_in_every_format() -> None:
    clip = of_one_clip(UNSURE, 2.0)
    parts = [
        Segment(0, 1, "anger", {"anger": 0.4, "joy": 0.6}, unsure=True),
        Segment(1, 2, "joy", {"anger": 0.1, "joy": 0.9}, unsure=False),
    ]
    timed = of_segments(Prediction("a", path="a.wav"), parts, 2.0)
    timed = replace(timed, row=replace(timed.row, unsure=True))
    assert "anger, unsure  (" in readable(clip)
    assert "anger, unsure (" in readable(timed) and "joy (joy 0.90" in readable(timed)
    row = json.loads(json.dumps(timed.as_dict()))
    assert [part["unsure"] for part in row["segments"]] == [True, False] and row["unsure"] is True
    assert row["segments"][0]["emotion"] == "anger"
    for lines in (list(srt_lines(timed)), list(vtt_lines(timed))):
        assert "(anger, unsure)" in lines and "(joy)" in lines
    first, second = (line.split() for line in rttm_lines(timed, "a"))
    assert (first[6], second[6]) == ("anger,unsure", "joy") and len(first) == 10
    text = "\n".join(line for lines in table_lines([timed], timed=True) for line in lines)
    assert [line["unsure"] for line in csv.DictReader(io.StringIO(text))] == ["yes", "no"]
    assert "anger, unsure" in timed._repr_html_() and "anger, unsure" in repr(clip)
    (again,) = parse_predictions(json.dumps(clip.as_dict()).encode(), "x")
    assert again.unsure is True


def test_unsure_is_what_lies_below(saved: Callable[..., Path], recordings: list[Path]) -> None:
    folder = saved()
    plain = list(Recognizer.load(folder).predictions(recordings))
    shares = [max((row.probabilities or {}).values()) for row in plain]
    edge = sorted(shares)[1]
    found = list(Recognizer.load(folder, unsure_below=edge).predictions(recordings))
    assert [row.unsure for row in found] == [share < edge for share in shares]
    assert {row.unsure for row in found} == {True, False}
    assert [row.emotion for row in found] == [row.emotion for row in plain]
    assert all(row.unsure is None for row in plain) and "unsure" not in plain[0].as_dict()


def test_the_command_marks_and_reweights(saved: Callable[..., Path], recordings: list[Path]) -> None:
    folder = saved()
    asked = ["predict", str(recordings[0].parent), "--model", str(folder), "--json"]
    done = CliRunner().invoke(app, [*asked, "--unsure-below", "1", "--prior", "anger=0,joy=1,neutral=1"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(row["unsure"] is True and row["probabilities"]["anger"] == 0 for row in rows)
    refused = CliRunner().invoke(app, [*asked, "--unsure-below", "2"])
    assert refused.exit_code == 2


def test_a_temperature_and_prior_together_in_a_batch_are_those_of_each_clip_alone(
    saved: Callable[..., Path], recordings: list[Path]
) -> None:
    import torch

    from voxstrata.batches.batch import Batch, Reference

    recognizer = Recognizer.load(saved(Calibration(2.0, PRIOR)), unsure_below=0.5, prior="uniform")
    waves = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in recordings]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    batch = Batch(tuple(Reference(str(k)) for k in range(len(waves))), padded, lengths)
    alone = list(recognizer.predictions(recordings))
    for together, one in zip(recognizer.answers([batch]), alone, strict=True):
        assert together.probabilities and together.probabilities == pytest.approx(one.probabilities, abs=1e-5)
        assert (together.emotion, together.unsure) == (one.emotion, one.unsure)
