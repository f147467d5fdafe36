"""UAR, precision, F1 and accuracy against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
)

from voxstrata.evaluation import classification
from voxstrata.evaluation.answers import Answers
from voxstrata.evaluation.score import score
from voxstrata.evaluation.tally import emotion_tally
from voxstrata.predictions import Prediction

NAMES = ("anger", "fear", "neutral", "sadness")
pairs = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=60)


def totals(references: list[str], answers: list[str | None]) -> dict[str, float]:
    clips = tuple(map(str, range(len(references))))
    tally = emotion_tally(Answers(clips, (None,) * len(clips), tuple(references), tuple(answers)))
    return {name: float(measure(tally.total)) for name, measure in tally.measures.items()}


@given(pairs)
def test_metrics_equal_scikit_learn_over_classes_with_support(rows):
    references, answers = map(list, zip(*rows, strict=True))
    present = sorted(set(references))
    macro = {"labels": present, "average": "macro", "zero_division": 0}
    found = totals(references, answers)
    assert found["uar"] == pytest.approx(recall_score(references, answers, **macro))
    assert found["precision"] == pytest.approx(precision_score(references, answers, **macro))
    assert found["macro_f1"] == pytest.approx(f1_score(references, answers, **macro))
    assert found["accuracy"] == pytest.approx(accuracy_score(references, answers))


@given(pairs)
def test_with_every_class_in_the_references_all_is_plain_macro_of_scikit_learn(rows):
    references, answers = map(list, zip(*rows, *[(name, "fear") for name in NAMES], strict=True))
    found = totals(references, answers)
    assert found["uar"] == pytest.approx(balanced_accuracy_score(references, answers))
    for name, oracle in (("precision", precision_score), ("macro_f1", f1_score)):
        assert found[name] == pytest.approx(oracle(references, answers, average="macro", zero_division=0))


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(pairs)
def test_recall_support_and_confusion_equal_scikit_learn(rows):
    references, answers = map(list, zip(*rows, strict=True))
    found = score([row(i, t, a) for i, (t, a) in enumerate(rows)], resamples=2).as_dict()["emotion"]
    assert found["labels"] == sorted({*references, *answers})
    assert found["confusion"] == confusion_matrix(references, answers, labels=found["labels"]).tolist()
    recalls = recall_score(references, answers, labels=found["labels"], average=None, zero_division=0)
    for name, recall in zip(found["labels"], recalls, strict=True):
        assert found["support"][name] == references.count(name)
        assert found["recall"][name] == (pytest.approx(recall) if name in references else None)


def test_a_class_without_support_counts_neither_way():
    assert totals(["anger", "fear"], ["anger", "sadness"])["uar"] == 0.5
    empty = np.zeros((2, 2, 3))
    empty[0, 0, 0] = empty[1, 0, 1] = 3
    assert classification.uar(empty).tolist() == [1.0, 0.0]


def test_no_answer_and_a_name_nobody_has_are_both_wrong():
    base = totals(["anger", "anger", "fear"], ["anger", "fear", "fear"])
    lost = totals(["anger", "anger", "fear"], ["anger", None, "fear"])
    strange = totals(["anger", "anger", "fear"], ["anger", "cheese", "fear"])
    assert lost == strange
    assert lost["uar"] == base["uar"] == 0.75
    assert lost["precision"] == 1.0 > base["precision"]


def row(number: int, reference: str, answer: str | None) -> Prediction:
    return Prediction(id=str(number), reference_emotion=reference, emotion=answer)
