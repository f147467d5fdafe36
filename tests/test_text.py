"""The yardstick that reads: scikit-learn's own answers, recognised words, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from voxstrata.batches.batch import Reference
from voxstrata.errors import PredictionsError, RecipeError
from voxstrata.experiments.run import execute
from voxstrata.labels import LabelSet
from voxstrata.methods.baselines.text import text_answers
from voxstrata.predictions import Prediction, read_predictions, write_predictions
from voxstrata.recipes.reading import validate
from voxstrata.reporting import page
from voxstrata.runs import RunFolder

LABELS = LabelSet(("anger", "happiness", "sadness"))
SAID = [
    ("get out of here", "anger"),
    ("I said get out", "anger"),
    ("what a lovely day", "happiness"),
    ("a lovely lovely surprise", "happiness"),
    ("don't go", "anger"),
    ("such a day", "happiness"),
]
CLIPS = [
    Reference(f"c{n}", f"c{n}.wav", f"s{n % 2}", emotion, text) for n, (text, emotion) in enumerate(SAID)
]


def asked(*texts: str | None) -> list[Reference]:
    return [Reference(f"q{n}", None, "s", "anger", text) for n, text in enumerate(texts)]


def test_answers_are_those_of_scikit_learn_over_words_and_pairs() -> None:
    questions = asked("get out", "a lovely day", "nothing known", None)
    rows = text_answers(CLIPS, {"test": questions}, LABELS, cost=3.0)["test"]

    def words_and_pairs(text: str) -> list[str]:
        words = text.split()
        return words + [" ".join(pair) for pair in pairwise(words)]

    counts = CountVectorizer(analyzer=words_and_pairs)
    tfidf = TfidfTransformer(sublinear_tf=True)
    features = tfidf.fit_transform(counts.fit_transform([text.lower() for text, _ in SAID]))
    machine = LogisticRegression(C=3.0, class_weight="balanced", max_iter=1000)
    machine.fit(features, [emotion for _, emotion in SAID])
    expected = machine.predict_proba(
        tfidf.transform(counts.transform([q.transcript or "" for q in questions]))
    )
    found = [[row.probabilities[name] for name in ("anger", "happiness")] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert [row.emotion for row in rows[:2]] == ["anger", "happiness"]
    assert all(row.probabilities["sadness"] == 0 and row.transcript is None for row in rows)
    assert rows[2].probabilities == pytest.approx(rows[3].probabilities)


def test_it_can_be_asked_about_recognised_words() -> None:
    questions = asked("get out", "a lovely day")
    heard = {"test": {"q0": "a lovely day", "q1": "get out"}}
    plain = text_answers(CLIPS, {"test": questions}, LABELS)["test"]
    misheard = text_answers(CLIPS, {"test": questions}, LABELS, recognized=heard)["test"]
    assert [row.emotion for row in misheard] == [row.emotion for row in plain[::-1]]
    assert [(row.transcript, row.reference_transcript) for row in misheard] == [
        ("a lovely day", "get out"),
        ("get out", "a lovely day"),
    ]
    with pytest.raises(PredictionsError, match=r"1 of 2 clips of test have no recognised words, e\.g\. q1"):
        text_answers(CLIPS, {"test": questions}, LABELS, recognized={"test": {"q0": "x"}})


def test_it_needs_words_of_two_classes() -> None:
    for clips in (CLIPS[:2], [replace(clip, transcript=None) for clip in CLIPS]):
        with pytest.raises(RecipeError, match="at least two classes"):
            text_answers(clips, {}, LABELS)


@pytest.fixture
def recipe(corpus_folder: Path, monkeypatch):
    monkeypatch.setattr(page, "write_report", lambda run: None)
    values = {"system": "text", "data": {"corpora": [{"path": str(corpus_folder)}]}}
    return lambda **changes: validate(values | changes, "text")


def test_a_run_reads_reference_words_or_another_run_s(recipe, tmp_path: Path) -> None:
    plain = execute(recipe(), RunFolder(tmp_path / "reference"))
    rows = read_predictions(plain.predictions("test"))
    assert len(rows) == 4 and all(row.emotion and row.transcript is None for row in rows)
    # In the corpus of the tests a class has a sentence of its own.
    assert [row.emotion for row in rows] == [row.reference_emotion for row in rows]
    heard = RunFolder(tmp_path / "asr")
    for split in ("dev", "test"):
        known = read_predictions(plain.predictions(split))
        write_predictions(heard.predictions(split), [Prediction(row.id, transcript="ba") for row in known])
    run = execute(recipe(transcripts=str(heard.path)), RunFolder(tmp_path / "recognised"))
    rows = read_predictions(run.predictions("test"))
    assert {row.emotion for row in rows} == {"neutral"} and {row.transcript for row in rows} == {"ba"}
    assert "../asr" in run.provenance.read_text()
    with pytest.raises(RecipeError, match="no predictions of dev"):
        execute(recipe(transcripts=str(tmp_path)), RunFolder(tmp_path / "nowhere"))
