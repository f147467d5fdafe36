"""Answers for another class prior, against plain loops and Bayes' rule."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.errors import PredictionsError
from voxstrata.evaluation.priors import adjust, adjusted, read_prior
from voxstrata.predictions import Prediction, write_predictions

SHARE = st.floats(0.01, 1.0)


def prediction(name: str, reference: str = "a", **probabilities: float) -> Prediction:
    answer = max(probabilities, key=probabilities.__getitem__)
    return Prediction(name, emotion=answer, probabilities=probabilities, reference_emotion=reference)


@given(st.lists(st.tuples(SHARE, SHARE, SHARE), min_size=2, max_size=8))
def test_it_is_the_formula_in_a_plain_loop(rows: list[tuple[float, float, float]]) -> None:
    p, trained, new = (np.array(column) / sum(column) for column in zip(*rows, strict=True))
    logits = [math.log(a) - math.log(b) + math.log(c) for a, b, c in zip(p, trained, new, strict=True)]
    total = sum(math.exp(logit) for logit in logits)
    expected = [math.exp(logit) / total for logit in logits]
    assert adjusted(p[None], trained, new)[0] == pytest.approx(expected, rel=1e-9)


def test_it_is_bayes_rule_of_a_known_mixture() -> None:
    # Two normal densities: the posterior under one prior turns into that under the other.
    x = np.linspace(-4, 6, 101)
    densities = np.stack([np.exp(-((x - mean) ** 2) / 2) for mean in (0.0, 2.0)], axis=1)

    def posterior(prior: list[float]) -> np.ndarray:
        joint = densities * prior
        return joint / joint.sum(axis=1, keepdims=True)

    found = adjusted(posterior([0.9, 0.1]), np.array([0.9, 0.1]), np.array([0.3, 0.7]))
    np.testing.assert_allclose(found, posterior([0.3, 0.7]), rtol=1e-12)


@given(st.lists(SHARE, min_size=2, max_size=6))
def test_the_same_prior_changes_nothing(shares: list[float]) -> None:
    p = np.array(shares)[None] / sum(shares)
    np.testing.assert_allclose(adjusted(p, p[0], p[0]), p, rtol=1e-12)


def test_an_impossible_class_stays_impossible_and_nothing_underflows() -> None:
    p = np.array([[0.0, 1e-300, 1e-305]])
    found = adjusted(p, np.array([0.2, 0.4, 0.4]), np.array([0.8, 0.1, 0.1]))
    assert found[0, 0] == 0 and found.sum() == pytest.approx(1) and np.isfinite(found).all()


def test_answers_follow_and_errors_and_transcripts_stay() -> None:
    rows = [
        prediction("1", a=0.6, b=0.4),
        prediction("2", a=0.95, b=0.05),
        Prediction("3", reference_emotion="b", error="silent"),
        Prediction("4", transcript="hi", reference_transcript="hi"),
    ]
    found = adjust(rows, {"a": 3, "b": 1}, None)
    assert [row.emotion for row in found.predictions] == ["b", "a", None, None]
    assert (found.adjusted, found.changed) == (2, 1) and found.predictions[2:] == rows[2:]
    assert found.predictions[0].probabilities == pytest.approx({"a": 0.2 / 0.6, "b": 0.4 / 0.6})


@pytest.mark.parametrize(
    ("rows", "trained", "new", "message"),
    [
        (
            [Prediction("1", emotion="a", reference_emotion="a")],
            None,
            None,
            "1 rows answer without them: '1'",
        ),
        ([Prediction("1", transcript="a", reference_transcript="a")], None, None, "no row has them"),
        ([prediction("1", a=0.6, b=0.4)], {"a": 1}, None, "train_prior lacks b; the classes are a, b"),
        ([prediction("1", a=0.6, b=0.4)], None, {"a": 1, "b": 1, "c": 1}, "^prior names c;"),
        ([prediction("1", a=0.6, b=0.4)], {"a": 1, "b": 0}, None, "train_prior gives b no share"),
        ([prediction("1", a=1.0, b=0.0)], None, {"a": 0, "b": 1}, "clip '1': prior gives no class a share"),
        ([prediction("1", a=1.5, b=-0.5)], None, None, "clip '1': probabilities must be numbers from 0 on"),
        ([prediction("1", a=1, b=0), prediction("2", a=1, c=0)], None, None, "one label set at a time"),
    ],
)
def test_what_does_not_fit_is_refused(rows, trained, new, message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        adjust(rows, trained, new)


@pytest.mark.parametrize("largest", [1.0, 1e10, 1e308, 1.7e308])
def test_shares_may_be_as_large_or_small_as_numbers_are(largest: float) -> None:
    rows = [prediction("1", a=0.5, b=0.5), prediction("2", a=0.25, b=0.75)]
    found = adjust(rows, None, {"a": largest, "b": largest / 3}).predictions
    # By hand: 1/2 * 3 : 1/2 * 1, and 1/4 * 3 : 3/4 * 1.
    assert [row.probabilities["a"] for row in found] == pytest.approx([0.75, 0.5])
    odd = adjust(rows, {"a": 1.0, "b": largest}, {"a": largest, "b": 1.0}).predictions
    assert all(math.isfinite(share) for row in odd for share in row.probabilities.values())
    assert [sum(row.probabilities.values()) for row in odd] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flat", "no prior 'flat'; give uniform, name=share"),
        ("a=1,a=2", "names a twice"),
        ("a=much", "gives 'a' the share 'much'; give numbers from 0 on"),
        ("a=-1,b=2", "gives 'a' the share '-1'"),
        ("a=0,b=0", "gives no class a share"),
        ("a=1,b", "gives 'b' the share ''"),
    ],
)
def test_a_prior_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        read_prior(text)


def test_a_prior_may_be_a_file_of_counts_or_a_prepared_corpus(tmp_path: Path, corpus_folder: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text('{"a": 30, "b": 10}')
    assert read_prior(str(path)) == {"a": 30.0, "b": 10.0}
    path.write_text("[1]")
    with pytest.raises(PredictionsError, match="must hold a JSON object"):
        read_prior(str(path))
    path.write_text("{")
    with pytest.raises(PredictionsError, match="is not JSON"):
        read_prior(str(path))
    # The shared corpus: eight train clips, its three emotions in turn.
    assert read_prior(str(corpus_folder / "corpus.json")) == {"anger": 3.0, "neutral": 3.0, "sadness": 2.0}


def test_the_command_scores_the_adjusted_answers(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    write_predictions(
        path,
        [
            prediction("1", "b", a=0.6, b=0.4),
            prediction("2", "a", a=0.95, b=0.05),
            prediction("3", "b", a=0.4, b=0.6),
        ],
    )

    def uar(*more: str) -> float:
        result = CliRunner().invoke(app, ["evaluate", str(path), "--json", "--resamples", "10", *more])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["emotion"]["uar"]["value"]

    assert uar() == pytest.approx(0.75)
    assert uar("--train-prior", "a=3,b=1", "--prior", "uniform") == pytest.approx(1.0)
    assert uar("--train-prior", "a=3,b=1", "--prior", "a=3,b=1") == pytest.approx(0.75)
    told = CliRunner().invoke(app, ["evaluate", str(path), "--train-prior", "a=3,b=1", "--prior", "uniform"])
    assert "3 rows adjusted from the prior a=3,b=1 to uniform; 1 answers changed" in told.stderr


@pytest.mark.parametrize(
    ("given_option", "message"),
    [
        ("--prior", "^prior needs train_prior beside it"),
        ("--train-prior", "^train_prior needs prior beside it"),
    ],
)
def test_one_prior_alone_is_refused(tmp_path: Path, given_option: str, message: str) -> None:
    write_predictions(tmp_path / "p.jsonl", [prediction("1", a=0.6, b=0.4)])
    refused = CliRunner().invoke(app, ["evaluate", str(tmp_path / "p.jsonl"), given_option, "uniform"])
    with pytest.raises(PredictionsError, match=message):
        raise refused.exception or AssertionError(refused.output)
