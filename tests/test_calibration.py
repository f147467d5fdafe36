"""Temperature, expected calibration error, Brier score and reliability, against plain loops."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss
from transformers import AutoModelForAudioClassification
from typer.testing import CliRunner

from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.batch import Batch, Reference
from voxstrata.cli.main import app
from voxstrata.evaluation import calibration
from voxstrata.evaluation.calibration import (
    BINS,
    about_temperature,
    calibration_of,
    confidences_in,
    fit_temperature,
    reliability,
    tempered,
)
from voxstrata.evaluation.score import score
from voxstrata.evaluation.stored import scores_from
from voxstrata.exporting.emotion import emotion_model
from voxstrata.labels import LabelSet
from voxstrata.methods.calibration import Calibration, effective_prior, most_probable
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.reporting.reliability import reliability_figure
from voxstrata.reporting.scores import CalibrationScores

NAMES = ("anger", "joy", "neutral")


def rows_of(seed: int, clips: int, sharpness: float = 2.0, speakers: int = 6) -> list[Prediction]:
    """Answers of a model that is right as often as its logits say, which are then multiplied."""
    draw = random.Random(seed)
    rows = []
    for k in range(clips):
        logits = [draw.gauss(0, 1.5) for _ in NAMES]
        weights = [math.exp(z) for z in logits]
        true = draw.choices(NAMES, weights)[0]
        sharp = [math.exp(sharpness * z) for z in logits]
        shares = dict(zip(NAMES, (s / sum(sharp) for s in sharp), strict=True))
        best = max(shares, key=shares.__getitem__)
        rows.append(
            Prediction(
                f"{k}", speaker=f"s{k % speakers}", emotion=best, probabilities=shares, reference_emotion=true
            )
        )
    return rows


def test_calibration_error_and_brier_score_are_those_of_plain_loops() -> None:
    rows = rows_of(1, 300)
    found = calibration_of(rows, resamples=20)
    assert found is not None
    error, squares = 0.0, 0.0
    for b in range(BINS):
        inside = [
            (max(row.probabilities.values()), row.emotion == row.reference_emotion)  # type: ignore[union-attr]
            for row in rows
            if b / BINS < max(row.probabilities.values()) <= (b + 1) / BINS  # type: ignore[union-attr]
        ]
        if inside:
            sure = sum(share for share, _ in inside) / len(inside)
            right = sum(hit for _, hit in inside) / len(inside)
            error += len(inside) / len(rows) * abs(sure - right)
    for name in NAMES:
        true = [row.reference_emotion == name for row in rows]
        squares += brier_score_loss(true, [row.probabilities[name] for row in rows])  # type: ignore[index]
    assert found.metrics["ece"].value == pytest.approx(error, abs=1e-12)
    assert found.metrics["brier"].value == pytest.approx(squares, abs=1e-12)
    assert found.clips == 300 and found.metrics["ece"].speaker is not None
    low, high = found.metrics["ece"].speaker
    scores = score(rows, resamples=20)
    assert scores.calibration == found and scores_from(scores.as_dict()) == scores
    assert 0 <= low <= high <= 1


def test_a_reference_that_the_model_does_not_know_costs_its_whole_square() -> None:
    found = calibration_of(
        [Prediction("a", emotion="x", probabilities={"x": 0.75, "y": 0.25}, reference_emotion="z")],
        resamples=2,
    )
    assert found is not None
    assert found.metrics["brier"].value == pytest.approx(0.75**2 + 0.25**2 + 1)
    assert found.metrics["ece"].value == pytest.approx(0.75)


def test_rows_without_probabilities_or_reference_are_not_scored() -> None:
    rows = [Prediction("a", emotion="x", reference_emotion="x"), Prediction("b", error="broken")]
    assert calibration_of(rows) is None
    assert calibration_of([Prediction("a", emotion="x", probabilities={"x": 1.0})]) is None


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_the_temperature_is_where_the_likelihood_is_highest(sharpness: float) -> None:
    rows = rows_of(2, 2000, sharpness)

    def cost(log_temperature: float) -> float:
        total = 0.0
        for row in rows:
            assert row.probabilities is not None and row.reference_emotion is not None
            powers = {n: p ** math.exp(-log_temperature) for n, p in row.probabilities.items()}
            total -= math.log(powers[row.reference_emotion] / sum(powers.values()))
        return total

    best = minimize_scalar(cost, bounds=(-2.5, 2.5), method="bounded", options={"xatol": 1e-6})
    found = fit_temperature(rows)
    assert found.value == pytest.approx(math.exp(best.x), rel=1e-3)
    assert found.value == pytest.approx(sharpness, rel=0.1)
    assert found.clips == 2000 and "2000 dev clips" in found.about


def test_a_fitted_temperature_makes_the_error_smaller() -> None:
    dev, test = rows_of(3, 2000, 3.0), rows_of(4, 2000, 3.0)
    value = fit_temperature(dev).value
    warm = [tempered(row, value) for row in test]
    found, plain = calibration_of(warm, resamples=5), calibration_of(test, resamples=5)
    assert found is not None and plain is not None
    assert found.metrics["ece"].value < 0.3 * plain.metrics["ece"].value
    assert found.metrics["brier"].value < plain.metrics["brier"].value
    told = about_temperature(warm, value)
    assert told["temperature"] == value
    for name in ("ece", "brier"):
        assert told["before"][name]["value"] == pytest.approx(plain.metrics[name].value, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "words"),
    [([], "0 clips"), (rows_of(5, 29), "29 clips"), ([Prediction("a", transcript="x")] * 99, "0 clips")],
)
def test_too_few_dev_clips_leave_probabilities_as_they_are(rows: list[Prediction], words: str) -> None:
    found = fit_temperature(rows)
    assert (found.value, found.clips) == (1.0, 0)
    assert words in found.about and "30" in found.about


def test_answers_that_are_all_right_have_no_best_temperature() -> None:
    shares = {"x": 0.6, "y": 0.4}
    rows = [Prediction(f"{k}", emotion="x", probabilities=shares, reference_emotion="x") for k in range(50)]
    assert fit_temperature(rows).value == 1.0


LOGITS = st.lists(st.lists(st.floats(-40, 40, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@given(LOGITS, st.floats(0.05, 20))
def test_a_temperature_divides_logits_and_changes_no_label(rows: list[list[float]], value: float) -> None:
    logits = torch.tensor(rows)
    found = Calibration(value).probabilities(logits)
    for row, shares in zip(rows, found, strict=True):
        top = max(row)
        powers = [math.exp((z - top) / value) for z in row]
        assert shares == pytest.approx([p / sum(powers) for p in powers], rel=1e-6, abs=1e-12)
    plain = [dict(zip(NAMES, row, strict=True)) for row in logits.softmax(-1).tolist()]
    assert most_probable(NAMES, logits) == [max(row, key=row.__getitem__) for row in plain]


def test_reliability_bins_have_counts_means_and_a_band_by_speaker() -> None:
    rows = rows_of(6, 400)
    found = confidences_in(rows)
    assert found is not None
    bins = reliability(found, resamples=200)
    assert sum(one.clips for one in bins if one) == 400
    for b, one in enumerate(bins):
        inside = [row for row in rows if math.ceil(max((row.probabilities or {}).values()) * BINS) == b + 1]
        assert (one is None) == (not inside)
        if one is None:
            continue
        assert one.accuracy == pytest.approx(np.mean([r.emotion == r.reference_emotion for r in inside]))
        assert one.band is not None and one.band[0] <= one.accuracy <= one.band[1]
    alone = confidences_in(rows_of(6, 50, speakers=1))
    assert alone is not None and all(one is None or one.band is None for one in reliability(alone))


def test_the_prior_of_a_balanced_loss_is_what_its_weights_make_of_the_counts() -> None:
    targets = torch.eye(2)[[0, 0, 0, 1]]
    assert effective_prior(targets, None, ("a", "b")) == {"a": 0.75, "b": 0.25}
    # Weights by inverse counts take the prior away.
    assert effective_prior(targets, torch.tensor([1 / 3, 1.0]), ("a", "b")) == pytest.approx(
        {"a": 0.5, "b": 0.5}
    )
    # A clip of soft votes counts with the mean weight of its votes.
    soft = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    found = effective_prior(soft, torch.tensor([1.0, 3.0]), ("a", "b"))
    assert found == pytest.approx({"a": (2 * 0.5 + 1) / 3, "b": 2 * 0.5 / 3})


def test_the_figure_has_counts_and_both_lines() -> None:
    rows = [tempered(row, 2.0) for row in rows_of(7, 200)]
    found = calibration_of(rows, resamples=20)
    assert found is not None
    numbers = found.as_dict() | about_temperature(rows, 2.0)
    scores = CalibrationScores.model_validate_json(json.dumps(numbers))
    drawn = reliability_figure("test", rows, scores)
    assert drawn is not None and drawn.name == "reliability-test"
    counts = [row[3] for row in drawn.rows if row[0] == "with temperature"]
    assert sum(int(n) for n in counts if n is not None) == 200
    assert {row[0] for row in drawn.rows} == {"with temperature", "before temperature"}
    assert f"before {numbers['before']['brier']['value']:.3f}" in drawn.caption


@pytest.fixture
def trained(
    tmp_path: Path, corpus_folder: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Trains a small emotion model, with a temperature from the few dev clips that there are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "FEWEST_CLIPS", 2)

    def train(*overrides: str) -> Path:
        values = {
            "system": "finetune",
            "task": "ser",
            "base": str(encoder_folder),
            "data": {"corpora": [{"path": str(corpus_folder)}], "batch_size": 4},
            "training": {"epochs": 1},
        }
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
        done = CliRunner().invoke(app, ["train", "mine.yaml", *overrides])
        assert done.exit_code == 0, done.output
        return tmp_path / "runs" / "mine"

    return train


def test_a_training_fits_stores_and_reports_a_temperature(trained: Callable[..., Path]) -> None:
    run = trained()
    told = json.loads((run / "model" / "model.json").read_text())["calibration"]
    model = load_model(run / "model")
    assert model.calibration == Calibration(told["temperature"], told["prior"])
    metrics = json.loads((run / "metrics.json").read_text())
    dev = read_predictions(run / "predictions" / "dev.jsonl")
    if told["temperature"] != 1:
        assert metrics["dev"]["calibration"]["before"]["brier"]["value"] > 0
        # At the best temperature the slope of the likelihood is zero, so that one fitted anew is 1.
        assert fit_temperature(dev).value == pytest.approx(1.0, abs=1e-3)
    assert sum(told["prior"].values()) == pytest.approx(1)
    assert metrics["test"]["calibration"]["temperature"] == told["temperature"]
    assert "Reliability of the probabilities" in (run / "report.html").read_text()
    assert (run / "figures" / "reliability-test.csv").is_file()


def test_a_recipe_can_turn_it_off(trained: Callable[..., Path]) -> None:
    run = trained("calibrate=false")
    told = json.loads((run / "model" / "model.json").read_text())["calibration"]
    assert told["temperature"] == 1.0 and told["prior"]
    assert "temperature" not in json.loads((run / "metrics.json").read_text())["test"]["calibration"]


def test_labels_with_a_temperature_are_those_without(trained: Callable[..., Path], tmp_path: Path) -> None:
    model = load_model(trained("calibrate=false") / "model")
    model.calibration = Calibration(3.0, model.calibration.prior)
    save_model(model, tmp_path / "warm")
    again = load_model(tmp_path / "warm")
    assert again.calibration == model.calibration


def test_an_export_has_the_temperature_in_its_weights(tmp_path: Path, encoder_folder: Path) -> None:
    torch.manual_seed(5)
    model = EmotionModel(load_backbone(encoder_folder), LabelSet(NAMES)).eval()
    model.calibration = Calibration(2.5)
    (tmp_path / "plain").mkdir()
    exported = emotion_model(model)
    exported.write(tmp_path / "plain", dtype=torch.float32)
    opened = AutoModelForAudioClassification.from_pretrained(tmp_path / "plain").eval()
    waves = 0.1 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20_000])
    row = model.predict(Batch((Reference("a"),), waves, lengths))[0]
    normalised = waves
    if exported.preprocessor["do_normalize"]:
        normalised = (waves - waves.mean()) / (waves.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        logits = opened(normalised).logits
    (ours,) = exported.answers(waves, lengths)
    assert row.probabilities == pytest.approx(
        dict(zip(NAMES, logits.softmax(-1)[0].tolist(), strict=True)), abs=1e-5
    )
    assert ours.tensors["logits"].tolist() == pytest.approx(logits[0].tolist(), abs=1e-4)
    assert any("temperature, 2.500" in note for note in exported.notes)
