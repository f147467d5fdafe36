"""Arousal, valence and dominance: from a corpus through training to scores; and smoothed class targets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from voxstrata.batches.clips import smoothed
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.cli.main import app
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError, PredictionsError, RecipeError
from voxstrata.evaluation.concordance import concordance
from voxstrata.evaluation.score import score
from voxstrata.experiments.run import execute
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import DIMENSIONS, LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.encoder_models import DimensionModel
from voxstrata.methods.model_folder import load_model
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.recipes.reading import validate
from voxstrata.runs import RunFolder

EMOTIONS = ("anger", "neutral", "sadness")


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """A prepared corpus with ratings; one training clip lacks its valence."""
    folder = tmp_path_factory.mktemp("rated")
    rows = []
    for i, split in enumerate(["train"] * 8 + ["dev"] * 4 + ["test"] * 4):
        noise = np.random.default_rng(i).normal(0, 0.1, 4800 + 300 * (i % 5))
        soundfile.write(folder / f"{i:02d}.wav", noise, 16_000)
        row = {
            "path": f"{i:02d}.wav",
            "speaker": f"{split}-{i % 2}",
            "split": split,
            "emotion": EMOTIONS[i % 3],
        }
        row |= {"votes:anger": 3, "votes:neutral": 1, "votes:sadness": 0}
        row |= {"arousal": 2 + i % 4, "valence": 5 - i % 3, "dominance": 3.5 + i % 2}
        rows.append(row)
    rows[0]["valence"] = None
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("table", folder / "table.jsonl", folder / "prepared")
    return folder / "prepared"


def recipe(rated, encoder_folder, system="finetune", data=None, **more):
    told = {"corpora": [{"path": str(rated)}], "batch_size": 4, "targets": "dimensions"} | (data or {})
    values = {"system": system, "base": str(encoder_folder), "data": told, "training": {"epochs": 2}}
    values |= {"task": "ser"} if system == "finetune" else {}
    return validate(values | more, "here")


def source(rated, split="train", **options):
    return BatchSource(PreparedCorpus.load(rated).cuts(split), BatchOptions(batch_size=4, **options))


def test_ratings_reach_the_batch_and_clips_without_are_left_out(rated):
    train = source(rated, targets="dimensions")
    assert train.left_out == {"no rating of arousal, valence or dominance": 1}
    found = {
        reference.id: (row.tolist(), reference.ratings)
        for batch in train.epoch(0)
        for reference, row in zip(batch.references, batch.to("cpu").ratings, strict=True)
    }
    assert len(found) == 7
    for i in range(1, 8):
        ratings, known = found[f"table/{i:02d}"]
        assert ratings == [2 + i % 4, 5 - i % 3, 3.5 + i % 2] == list(known.values())
    assert train.rating_matrix().shape == (7, 3)
    with pytest.raises(RecipeError, match="no ratings"):
        source(rated, labels=LabelSet(EMOTIONS)).rating_matrix()


def test_a_rating_that_is_no_number_is_named(rated):
    cuts = list(PreparedCorpus.load(rated).cuts("dev"))
    cuts[0].supervisions[0].custom["arousal"] = "high"
    with pytest.raises(CorpusError, match=r"clip 'table/08' .*'arousal': 'high'"):
        BatchSource(cuts, BatchOptions(targets="dimensions"))
    BatchSource(cuts, BatchOptions(labels=LabelSet(EMOTIONS)))


@pytest.mark.parametrize(("system", "form"), [("finetune", "a"), ("finetune", "c"), ("adaltm", "b")])
def test_a_run_on_ratings_writes_model_predictions_and_ccc(
    rated, encoder_folder, recordings, tmp_path, system, form
):
    run = RunFolder(tmp_path / "run")
    made = recipe(rated, encoder_folder, system, head={"form": form, "width": 8}, final_norm=False)
    lines: list[str] = []
    execute(made, run, notify=lines.append, progress=lambda step: None)
    assert any("arousal 3.71 ± " in line for line in lines)
    rows = read_predictions(run.predictions("test"))
    assert len(rows) == 4
    for i, row in zip(range(12, 16), sorted(rows, key=lambda row: row.id), strict=True):
        assert (row.reference_arousal, row.reference_valence) == (2 + i % 4, 5 - i % 3)
        assert row.emotion is None and all(np.isfinite(getattr(row, name)) for name in DIMENSIONS)
    scores = json.loads(run.metrics.read_text())["test"]["dimensions"]
    answers, references = (
        np.array([[getattr(row, f"{kind}{name}") for name in DIMENSIONS] for row in rows])
        for kind in ("", "reference_")
    )
    expected = [lin(answers[:, k], references[:, k]) for k in range(3)]
    assert [scores[f"ccc_{name}"]["value"] for name in DIMENSIONS] == pytest.approx(expected)
    assert scores["ccc"]["value"] == pytest.approx(np.mean(expected))
    model = load_model(run.model)
    assert isinstance(model, DimensionModel) and model.options.form == form
    torch.testing.assert_close(model.centre[0].item(), np.mean([2 + i % 4 for i in range(1, 8)]).item())
    heard = Recognizer.load(tmp_path / "run")(recordings[0])
    assert heard.emotion is None and set(heard.ratings) == set(DIMENSIONS)
    recognizer, corpus = Recognizer.load(run.path), PreparedCorpus.load(rated)
    again = {row.id: row for row in recognizer.answers(recognizer.batches_of(corpus, "test").epoch(0))}
    for row in rows:
        assert again[row.id].reference_dominance == row.reference_dominance is not None
        assert again[row.id].dominance == pytest.approx(row.dominance, abs=1e-4)
    assert sum(recognizer.batches_of(corpus, "train").left_out.values()) == 1
    page = CliRunner().invoke(app, ["report", str(run.path)], catch_exceptions=False)
    assert page.exit_code == 0 and "CCC arousal" in (run.path / "report.html").read_text()
    shown = CliRunner().invoke(app, ["evaluate", str(run.predictions("test"))], catch_exceptions=False)
    assert "CCC valence" in shown.stdout


def lin(x, y):
    """Lin 1989, equation 2, from moments."""
    return 2 * np.cov(x, y, bias=True)[0, 1] / (np.var(x) + np.var(y) + (x.mean() - y.mean()) ** 2)


def made_rows(count=60, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 7, (count, 3))
    answers = 0.6 * truth + 1.5 + rng.normal(0, 0.7, (count, 3))
    return [
        Prediction(
            id=str(i),
            speaker=f"s{i % 12}",
            **dict(zip(DIMENSIONS, map(float, answers[i]), strict=True)),
            **{f"reference_{name}": float(value) for name, value in zip(DIMENSIONS, truth[i], strict=True)},
        )
        for i in range(count)
    ]


def test_intervals_of_ccc_are_those_of_a_loop():
    rows = made_rows()
    metric = score(rows, resamples=200).dimensions.metrics["ccc_valence"]
    x, y = (np.array([getattr(row, name) for row in rows]) for name in ("valence", "reference_valence"))
    assert metric.value == pytest.approx(lin(x, y))
    drawn = []
    for seed in range(200):
        rng = np.random.RandomState(seed)
        index = rng.choice(len(rows), len(rows), replace=True)
        drawn.append(lin(x[index], y[index]))
    assert metric.iid == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    assert metric.speaker[0] < metric.value < metric.speaker[1]


def test_shifted_and_far_ratings_keep_their_digits():
    near, far = made_rows(), []
    for row in near:
        moved = {name: value + 1e6 for name, value in row.as_dict().items() if isinstance(value, float)}
        far.append(Prediction(**(row.as_dict() | moved)))
    first, second = (score(rows, resamples=2).dimensions.metrics["ccc"].value for rows in (near, far))
    assert first == pytest.approx(second, abs=1e-6)


def test_a_clip_without_a_rating_cannot_count_as_wrong():
    rows = made_rows(10)
    kept = {name: value for name, value in rows[3].as_dict().items() if name not in DIMENSIONS}
    rows[3] = Prediction(**kept, error="cut off")
    with pytest.raises(PredictionsError, match=r"1 clips lack a rating \('3'\).*leave-out"):
        score(rows, resamples=2)
    scores = score(rows, resamples=2, errors="leave-out")
    assert scores.dimensions.clips == 9 and scores.unanswered == 1


def test_clips_that_lack_a_reference_of_some_ratings_are_told():
    rows = [
        Prediction(f"{n}", arousal=n, reference_arousal=n, valence=n, reference_valence=n if n < 3 else None)
        for n in range(10)
    ]
    found = score(rows, resamples=2)
    assert found.dimensions is not None and found.dimensions.clips == 3
    assert "7 clips lack a reference in some of arousal, valence and are not scored in any" in found.warnings


def test_leaving_out_until_no_rated_clip_is_left_is_refused():
    references = {"reference_arousal": 1.0, "reference_valence": 2.0}
    rows = [Prediction("a", arousal=1.0, **references), Prediction("b", valence=2.0, **references)]
    with pytest.raises(PredictionsError, match="no clip has a complete answer for dimensions"):
        score(rows, errors="leave-out")


def test_the_concordance_of_no_clips_is_not_a_number():
    assert np.isnan(concordance(np.zeros(6)))
    assert concordance(np.array([2.0, 2, 2, 2, 2, 2])) == 0


def test_ratings_in_a_file_must_be_finite_numbers(tmp_path):
    for value in ('"high"', "NaN", "true"):
        (tmp_path / "p.jsonl").write_text(f'{{"id": "1", "arousal": {value}, "reference_arousal": 3}}\n')
        with pytest.raises(PredictionsError, match="'arousal' must be a finite number"):
            read_predictions(tmp_path / "p.jsonl")


@pytest.mark.parametrize(("share", "classes"), [(0.05, 8), (0.3, 2), (0.0, 3)])
def test_smoothing_spreads_a_share_and_keeps_the_sum_and_the_class_weights(share, classes):
    rng = np.random.default_rng(0)
    targets = rng.dirichlet(np.full(classes, 0.5), 50)
    found = np.array([smoothed(tuple(row), share) for row in targets])
    np.testing.assert_allclose(found, 0.95 * targets + 0.05 * (1 - targets) / 7 if classes == 8 else found)
    np.testing.assert_allclose(found.sum(1), 1)
    one_hot = np.array([smoothed(tuple(row), share) for row in np.eye(classes)])
    np.testing.assert_allclose(np.diag(one_hot), 1 - share)
    weights = [class_balanced_weights(torch.from_numpy(values).float()) for values in (targets, found)]
    assert torch.equal(*weights)


def test_targets_and_smoothing_of_a_recipe_reach_the_batches(rated):
    labels = LabelSet(EMOTIONS)
    votes = next(iter(source(rated, labels=labels, targets="votes").epoch(0))).emotion_targets
    torch.testing.assert_close(votes, torch.tensor([[0.75, 0.25, 0.0]]).expand(4, 3))
    smooth = source(rated, labels=labels, smoothing=0.1)
    batch = next(iter(smooth.epoch(0)))
    best = batch.emotion_targets.argmax(1).tolist()
    assert [labels.names[index] for index in best] == [reference.emotion for reference in batch.references]
    assert sorted(batch.emotion_targets[0].tolist()) == pytest.approx([0.05, 0.05, 0.9])
    with pytest.raises(RecipeError, match="smoothing is 1"):
        BatchOptions(smoothing=1.0)


def test_head_targets_smoothing_and_final_norm_of_a_recipe_reach_the_run(rated, encoder_folder, tmp_path):
    data = {"targets": "votes", "smoothing": 0.05, "labels": list(EMOTIONS)}
    made = recipe(rated, encoder_folder, data=data, head={"form": "b", "width": 8}, final_norm=True)
    run = RunFolder(tmp_path / "run")
    execute(made, run, notify=lambda line: None, progress=lambda step: None)
    about = json.loads((run.model / "model.json").read_text())
    assert about["final_norm"] is True and about["head"]["form"] == "b"
    assert load_model(run.model).encoder.final_norm


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"head": {"form": "b", "batch_norm": True}},
            "batch_norm is true and form is b, and only form a has it",
        ),
        ({"task": "asr", "data": {"targets": "dimensions"}}, "data.targets is dimensions and task is asr"),
        ({"head": {"form": "e"}}, "head.form"),
        ({"data": {"smoothing": 1.5}}, "data.smoothing"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(values, message):
    given = {"system": "finetune", "task": "ser", "training": {"epochs": 1}} | values
    with pytest.raises(RecipeError, match=message):
        validate(given, "here")
