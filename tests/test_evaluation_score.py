"""Intervals against the toolkit and a plain loop; what is scored, what is left out, and what is said."""

import json
import warnings

import confidence_intervals
import jiwer
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from voxstrata.errors import LabelError, PredictionsError
from voxstrata.evaluation.answers import answers_to, pooled
from voxstrata.evaluation.comparison import compare
from voxstrata.evaluation.intervals import cluster_weights, resampled_sums, toolkit_weights
from voxstrata.evaluation.score import score
from voxstrata.evaluation.tally import emotion_tally
from voxstrata.predictions import Prediction

NAMES = ("anger", "fear", "neutral")
WORDS = ("the", "dog", "ran", "over", "it's")


def system(clips: int = 90, speakers: int = 6, seed: int = 0, right: float = 0.6) -> list[Prediction]:
    random = np.random.default_rng(seed)
    rows = []
    for i in range(clips):
        emotion, words = NAMES[i % 3], random.choice(WORDS, size=1 + i % 7).tolist()
        heard = [w if random.random() < right else "uh" for w in words]
        answer = emotion if random.random() < right else NAMES[random.integers(3)]
        rows.append(
            Prediction(
                id=f"c{i}",
                speaker=f"s{i % speakers}",
                emotion=answer,
                reference_emotion=emotion,
                transcript=" ".join(heard),
                reference_transcript=" ".join(words),
            )
        )
    return rows


def test_intervals_by_clip_equal_the_toolkit_called_by_hand():
    rows = system()
    found = score(rows, resamples=100)
    true = np.array([p.reference_emotion for p in rows])
    said = np.array([p.emotion for p in rows])
    spoken = np.array([p.reference_transcript for p in rows])
    heard = np.array([p.transcript for p in rows])
    macro = {"average": "macro", "zero_division": 0}
    by_hand = {
        "uar": (said, true, lambda y, p: recall_score(y, p, **macro)),
        "precision": (said, true, lambda y, p: precision_score(y, p, **macro)),
        "macro_f1": (said, true, lambda y, p: f1_score(y, p, **macro)),
        "wer": (heard, spoken, lambda y, p: jiwer.wer(y.tolist(), p.tolist())),
        "cer": (heard, spoken, lambda y, p: jiwer.cer(y.tolist(), p.tolist())),
    }
    metrics = {**found.emotion.metrics, **found.transcript.metrics}
    for name, (answers, labels, metric) in by_hand.items():
        value, interval = confidence_intervals.evaluate_with_conf_int(answers, metric, labels, None, 100, 5)
        assert metrics[name].value == pytest.approx(value)
        assert metrics[name].iid == pytest.approx(interval), name


def test_every_sample_by_clip_is_the_toolkits():
    rows = system()
    said, true = (np.array([getattr(p, f) for p in rows]) for f in ("emotion", "reference_emotion"))
    toolkit = confidence_intervals.Bootstrap(20, balanced_accuracy_score).run(said, true)
    tally = emotion_tally(answers_to("emotion", rows))
    sums = resampled_sums(tally.table, toolkit_weights(len(rows), 20))
    assert tally.measures["uar"](sums) == pytest.approx(toolkit)


def test_intervals_by_speaker_equal_a_plain_loop_over_drawn_speakers():
    # one speaker alone has a class, so that some samples lose it
    rows = [p for p in system(seed=3) if p.reference_emotion != "fear" or p.speaker == "s1"]
    found = score(rows, resamples=60, seed=5)
    names = sorted({p.speaker for p in rows})
    uars, wers, lost = [], [], 0
    for weights in cluster_weights(len(names), 60, 5):
        drawn = [
            p
            for name, times in zip(names, weights, strict=True)
            for p in rows * int(times)
            if p.speaker == name
        ]
        true, said = [p.reference_emotion for p in drawn], [p.emotion for p in drawn]
        lost += "fear" not in true
        present = sorted(set(true))
        uars.append(recall_score(true, said, labels=present, average="macro", zero_division=0))
        wers.append(jiwer.wer([p.reference_transcript for p in drawn], [p.transcript for p in drawn]))
    assert 0 < lost < 60
    assert found.emotion.metrics["uar"].speaker == pytest.approx(np.percentile(uars, [2.5, 97.5]))
    assert found.transcript.metrics["wer"].speaker == pytest.approx(np.percentile(wers, [2.5, 97.5]))


def test_speakers_are_drawn_with_replacement_by_seed():
    draws = list(cluster_weights(7, 500, 1))
    assert all(weights.sum() == 7 for weights in draws)
    assert np.mean(draws, axis=0) == pytest.approx(1, abs=0.2)
    assert np.array_equal(draws, list(cluster_weights(7, 500, 1)))
    assert not np.array_equal(draws, list(cluster_weights(7, 500, 2)))


def test_the_shape_is_the_one_that_reports_read():
    found = json.loads(json.dumps(score(system(), resamples=20).as_dict()))
    assert (found["clips"], found["speakers"], found["unanswered"], found["errors"]) == (90, 6, 0, "wrong")
    emotion, transcript = found["emotion"], found["transcript"]
    assert set(emotion) == {
        "clips", "speakers", "labels", "uar", "precision", "macro_f1", "accuracy", "recall", "support",
        "confusion",
    }  # fmt: skip
    assert set(transcript) == {
        "clips", "speakers", "normalizer", "wer", "cer", "substitutions", "deletions", "insertions", "words",
        "characters",
    }  # fmt: skip
    for metric in (emotion["uar"], emotion["accuracy"], transcript["cer"]):
        assert set(metric) == {"value", "iid", "speaker"}
        assert metric["iid"][0] <= metric["value"] <= metric["iid"][1]
    assert emotion["uar"]["value"] == pytest.approx(
        balanced_accuracy_score([p.reference_emotion for p in system()], [p.emotion for p in system()])
    )


def test_a_system_with_one_task_is_scored_on_that_task():
    emotions = [
        Prediction(id=p.id, emotion=p.emotion, reference_emotion=p.reference_emotion) for p in system()
    ]
    found = score(emotions, resamples=20)
    assert found.transcript is None and found.emotion.metrics["uar"].speaker is None
    assert "transcript" not in found.as_dict()
    assert any("no row names a speaker" in warning for warning in found.warnings)
    heard = [
        Prediction(
            p.id, None, p.speaker, None, None, p.reference_emotion, p.transcript, p.reference_transcript
        )
        for p in system()
    ]
    found = score(heard, resamples=20)
    assert found.emotion is None and found.transcript.words > 0
    assert any("emotion is not scored" in warning for warning in found.warnings)


@pytest.mark.parametrize("gap", ["error", "missing"])
def test_a_clip_without_an_answer_is_wrong_or_left_out(gap):
    rows = [
        Prediction("a", None, "s", "anger", None, "anger", "go", "go"),
        Prediction("b", None, "t", "fear", None, "fear", "on", "on"),
        Prediction("c", None, "t", None, None, "fear", None, "go on", "broken" if gap == "error" else None),
    ]
    wrong = score(rows, resamples=5)
    assert (wrong.clips, wrong.unanswered) == (3, 1)
    assert wrong.emotion.metrics["uar"].value == 0.75 and wrong.emotion.support["fear"] == 2
    assert wrong.emotion.confusion == ((1, 0), (0, 1))
    assert wrong.transcript.metrics["wer"].value == 0.5
    left_out = score(rows, resamples=5, errors="leave-out")
    assert (left_out.clips, left_out.unanswered) == (2, 1)
    assert left_out.emotion.metrics["uar"].value == 1 and left_out.transcript.metrics["wer"].value == 0


def test_an_answer_beside_an_error_does_not_count():
    rows = [*system(clips=12), Prediction("x", emotion="fear", reference_emotion="fear", error="cut off")]
    assert score(rows, resamples=5).unanswered == 1


def test_what_cannot_be_scored_is_said():
    good = system(clips=12)
    bare = Prediction(id="x", error="broken")
    with pytest.raises(
        PredictionsError, match=r"1 rows hold an error and no reference \('x'\).*errors: leave-out"
    ):
        score([*good, bare])
    assert score([*good, bare], resamples=5, errors="leave-out").clips == 12
    with pytest.raises(PredictionsError, match="nothing to score"):
        score([Prediction(id="x", emotion="anger")])
    with pytest.raises(PredictionsError, match="no word after the normaliser 'basic'"):
        score([Prediction(id="x", transcript="go", reference_transcript="...")])
    with pytest.raises(PredictionsError, match="choose one of wrong, leave-out"):
        score(good, errors="ignore")
    with pytest.raises(PredictionsError, match="at least 2 resamples"):
        score(good, resamples=0)
    found = score([*good, Prediction(id="x", emotion="anger")], resamples=5)
    assert found.clips == 12 and "1 rows answer emotion without a reference" in found.warnings[0]


def test_labels_are_held_to_and_shown_in_their_order():
    rows = system(clips=12)
    found = score(rows, resamples=5, labels=("neutral", "fear", "anger", "disgust"))
    assert found.emotion.labels == ("neutral", "fear", "anger", "disgust")
    assert found.emotion.support["disgust"] == 0 and found.emotion.recall["disgust"] is None
    assert found.emotion.metrics == score(rows, resamples=5).emotion.metrics
    with pytest.raises(PredictionsError, match=r"'neutral' \(clip 'c.*allowed are anger, fear"):
        score(rows, labels=("anger", "fear"))
    with pytest.raises(LabelError):
        score(rows, labels=("anger", "fear", "neutral", "fear"))


def test_names_that_no_reference_has_are_pointed_out():
    rows = [Prediction("a", emotion="angry", reference_emotion="anger"), *system(clips=12)]
    found = score(rows, resamples=5)
    assert "angry" in found.emotion.labels
    assert found.warnings[0] == (
        "emotion: no reference is 'angry': UAR, precision and F1 are means over the other 3 classes; 1 "
        "answer of them counted as wrong"
    )


def test_classes_without_a_reference_are_named_and_left_out_as_scikit_learn_does():
    rows = [
        Prediction(
            str(number),
            emotion="aabd"[number % 4],
            reference_emotion="ab"[number % 2],
            probabilities={name: float(name == "aabd"[number % 4]) for name in "abde"},
            classes={"sex": {"f": 1.0, "m": 0.0}},
            reference_classes={"sex": "f"},
        )
        for number in range(20)
    ]
    found = score(rows, resamples=5, labels=("a", "b", "c", "d"))
    references, answers = ([getattr(row, name) for row in rows] for name in ("reference_emotion", "emotion"))
    theirs = {"labels": ["a", "b"], "average": "macro", "zero_division": 0}
    with warnings.catch_warnings():
        # "y_pred contains classes not in y_true"
        warnings.simplefilter("ignore")
        uar = balanced_accuracy_score(references, answers)
    assert found.emotion.metrics["uar"].value == pytest.approx(uar)
    for name, measure in {"precision": precision_score, "macro_f1": f1_score, "uar": recall_score}.items():
        value = measure(references, answers, **theirs)
        assert found.emotion.metrics[name].value == pytest.approx(value)
    assert found.warnings[:2] == (
        "emotion: no reference is 'c', 'd', 'e': UAR, precision and F1 are means over the other 2 classes; "
        "5 answers of them counted as wrong",
        "sex: no reference is 'm': UAR, precision and F1 are means over the other 1 class",
    )
    both = compare(rows, rows, resamples=5).warnings
    assert [note for note in both if "no reference is" in note][1] == found.warnings[1]


def test_references_of_one_class_are_pointed_out():
    rows = [Prediction(str(number), emotion="a", reference_emotion="a") for number in range(4)]
    assert score(rows, resamples=5).warnings[0] == (
        "emotion: all references are 'a'; add clips of other classes"
    )


@pytest.mark.parametrize(
    ("speakers", "said"),
    [(1, "one speaker only"), (4, "only 4 speakers"), (9, "only 9 speakers"), (10, None)],
)
def test_few_speakers_are_warned_of(speakers, said):
    warnings = score(system(speakers=speakers), resamples=5).warnings
    assert warnings == () if said is None else said in warnings[0]


def test_one_clip_without_a_speaker_takes_the_interval_by_speaker_away():
    rows = [*system(), Prediction("x", emotion="anger", reference_emotion="anger")]
    found = score(rows, resamples=5)
    assert found.emotion.metrics["uar"].speaker is None
    assert found.transcript.metrics["wer"].speaker is not None
    assert "1 of 91 clips name no speaker" in found.warnings[0]


def test_pooling_refuses_a_clip_in_two_files():
    rows = system(clips=12)
    assert pooled({"one": rows[:5], "two": rows[5:]}) == rows
    with pytest.raises(PredictionsError, match="clip 'c4' stands in one and in two"):
        pooled({"one": rows[:5], "two": rows[4:]})


@pytest.mark.slow
def test_the_papers_test_set_is_scored_in_seconds():
    import time

    rows = system(clips=46_366, speakers=200)
    start = time.monotonic()
    score(rows, resamples=2000)
    assert time.monotonic() - start < 60
