"""Class tasks beside emotion in predictions files: rows of several tasks, their scores, their pages."""

from __future__ import annotations

import json

import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.errors import PredictionsError
from voxstrata.evaluation.score import score
from voxstrata.predictions import Prediction, one_row_each, read_predictions, write_predictions
from voxstrata.reporting.contents import kept_validation
from voxstrata.reporting.fusion import read_fusion
from voxstrata.reporting.fusion_figures import fusion_drawings

TRUTH = ["female", "male", "female", "male", "male", "female", "female"]
GUESSED = ["female", "female", "female", "male", "male", "male", "female"]


def row(index: int, **more: object) -> Prediction:
    guess = {name: 0.8 if name == GUESSED[index] else 0.2 for name in ("female", "male")}
    fields = {"classes": {"gender": guess}, "reference_classes": {"gender": TRUTH[index]}} | more
    return Prediction(id=str(index), speaker=f"s{index % 3}", **fields)


ROWS = [row(index) for index in range(len(TRUTH))]


def test_classes_are_scored_as_emotions_are(tmp_path):
    write_predictions(tmp_path / "p.jsonl", ROWS)
    assert read_predictions(tmp_path / "p.jsonl") == ROWS
    gender = score(ROWS, resamples=20).as_dict()["classes"]["gender"]
    assert gender["uar"]["value"] == pytest.approx(balanced_accuracy_score(TRUTH, GUESSED))
    assert gender["accuracy"]["value"] == pytest.approx(accuracy_score(TRUTH, GUESSED))
    assert gender["support"] == {"female": 4, "male": 3}
    shown = CliRunner().invoke(app, ["evaluate", str(tmp_path / "p.jsonl")])
    assert shown.exit_code == 0 and "UAR gender" in shown.stdout and "female" in shown.stdout


def test_a_clip_without_an_answer_counts_as_wrong_or_not_at_all():
    failed = [*ROWS[:-1], Prediction("6", reference_classes={"gender": "female"}, error="silence")]
    wrong = score(failed, resamples=20)
    assert wrong.unanswered == 1
    assert wrong.classes["gender"].metrics["accuracy"].value == pytest.approx(4 / 7)
    assert score(failed, resamples=20, errors="leave-out").classes["gender"].support["female"] == 3


def test_answers_without_truth_are_not_scored():
    with pytest.raises(PredictionsError, match="classes with reference_classes"):
        score([Prediction("a", classes={"gender": {"female": 1.0}})])


def test_rows_of_several_tasks_become_one_a_clip():
    words = Prediction("0", path="0.wav", speaker="s0", transcript="a", reference_transcript="b")
    accent = row(0, path="0.wav", classes={"accent": {"x": 1.0}}, reference_classes={"accent": "x"})
    joined = one_row_each([words, row(0), row(1), accent])
    assert [clip.id for clip in joined] == ["0", "1"]
    assert joined[0].classes.keys() == joined[0].reference_classes.keys() == {"gender", "accent"}
    assert (joined[0].transcript, joined[0].path) == ("a", "0.wav")
    assert joined[1] == row(1)
    with pytest.raises(PredictionsError, match="two tasks have a clip '0', with another path each"):
        one_row_each([words, row(0, path="elsewhere.wav")])


@pytest.mark.parametrize(
    "fields",
    [{"classes": {"gender": "female"}}, {"classes": {"gender": {}}}, {"reference_classes": {"gender": 1}}],
)
def test_classes_of_another_form_are_refused(fields, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "a"} | fields))
    with pytest.raises(PredictionsError, match="classes' must be"):
        read_predictions(tmp_path / "p.jsonl")


def test_fusion_weights_of_the_best_validation_are_drawn():
    weights = {
        "gate/asr/1": 0.25,
        "gate/asr/2": 0.75,
        "alpha/asr/1": 1.0,
        "alpha/ser/1": 0.5,
        "alpha/ser/2": 0.5,
    }
    rows = [{"step": 3, "best": True} | weights, {"step": 6, "best": False, "gate/asr/1": 1.0}]
    last = kept_validation(rows, {"training": {"keep_best": False}})
    assert read_fusion(last).gate == {"asr": [1.0]} and read_fusion(last).step == 6
    found = read_fusion(kept_validation(rows, {"training": {"epochs": 3}}))
    assert (found.step, found.gate, found.alpha) == (
        3,
        {"asr": [0.25, 0.75]},
        {"asr": [1.0], "ser": [0.5, 0.5]},
    )
    gate, alpha = fusion_drawings(found)
    assert gate.rows == ((1, 0.25), (2, 0.75)) and "asr: most of layer 2 (0.750)" in gate.alt
    assert alpha.rows == ((1, 1.0, 0.5), (2, None, 0.5)) and alpha.svg.startswith("<?xml")
    assert read_fusion({"step": 1}) is None and kept_validation([], {}) is None
