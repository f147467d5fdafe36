"""Paired comparison: pairing, by speaker, and what two files must share."""

from dataclasses import replace

import jiwer
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.comparison import compare, compare_repeats
from voxstrata.evaluation.intervals import cluster_weights
from voxstrata.evaluation.score import score
from voxstrata.predictions import Prediction

NAMES = ("anger", "fear", "neutral", "sadness")


def systems(gain: float = 0.0, speakers: int = 20, clips: int = 40, spread: float = 0.3, seed: int = 0):
    """Two systems that find the same speakers hard; the second also gets a share `gain` right."""
    random = np.random.default_rng(seed)
    first, second = [], []
    for speaker in range(speakers):
        ease = random.uniform(0.5 - spread, 0.5 + spread)
        for clip in range(clips):
            true = NAMES[clip % 4]
            answers = [true if random.random() < ease else NAMES[(clip + 1) % 4] for _ in range(2)]
            answers[1] = true if random.random() < gain else answers[1]
            base = Prediction(f"{speaker}-{clip}", speaker=str(speaker), reference_emotion=true)
            heard = [
                {"transcript": "a b" if a == true else "a", "reference_transcript": "a b"} for a in answers
            ]
            first.append(replace(base, emotion=answers[0], **heard[0]))
            second.append(replace(base, emotion=answers[1], **heard[1]))
    return first, second


def test_a_system_does_not_differ_from_itself():
    a, _ = systems()
    for value in compare(a, list(reversed(a)), resamples=50).differences.values():
        assert (value.difference, value.interval, value.smallest, value.shown) == (0, (0, 0), 0, False)


def test_the_difference_equals_a_plain_loop_over_drawn_speakers():
    a, b = systems(gain=0.1, speakers=5, clips=12)
    found = compare(a, b, resamples=40, seed=7).differences
    names = sorted({p.speaker for p in a})

    def uar(rows):
        return balanced_accuracy_score([p.reference_emotion for p in rows], [p.emotion for p in rows])

    def wer(rows):
        return jiwer.wer([p.reference_transcript for p in rows], [p.transcript for p in rows])

    def drawn(rows, weights):
        times = dict(zip(names, weights.astype(int), strict=True))
        return [p for p in rows for _ in range(times[p.speaker])]

    for name, metric in (("uar", uar), ("wer", wer)):
        values = [metric(drawn(b, w)) - metric(drawn(a, w)) for w in cluster_weights(5, 40, 7)]
        assert found[name].difference == pytest.approx(metric(b) - metric(a))
        assert found[name].interval == pytest.approx(np.percentile(values, [2.5, 97.5]))
        assert found[name].smallest == pytest.approx(2.8 * np.std(values, ddof=1))


def test_a_change_of_a_difference_equals_a_plain_loop_over_speakers_drawn_once():
    # The second condition has other clips, and one speaker of its own.
    first, second = systems(gain=0.1, speakers=5, clips=12), systems(gain=0.4, speakers=6, clips=8, seed=1)
    found = compare_repeats([first], [second], resamples=40, seed=7)
    names = [str(n) for n in range(6)]

    def uar(rows, weights):
        kept = [p for p in rows for _ in range(weights[int(p.speaker)])]
        return balanced_accuracy_score([p.reference_emotion for p in kept], [p.emotion for p in kept])

    def change(weights):
        less, more = ([uar(rows, weights) for rows in pair] for pair in (first, second))
        return (more[1] - more[0]) - (less[1] - less[0])

    assert sorted({p.speaker for pair in (first, second) for p in pair[0]}) == names
    drawn = [w.astype(int) for w in cluster_weights(6, 40, 7) if w[:5].any()]
    np.testing.assert_allclose(found["uar"].interval, np.percentile([change(w) for w in drawn], [2.5, 97.5]))
    np.testing.assert_allclose(found["uar"].difference, change(np.ones(6, int)))
    assert found["uar"].unit == "speaker" and "wer" in found


def test_what_only_one_condition_answers_has_no_change():
    first, second = systems(speakers=4, clips=8), systems(speakers=4, clips=8, seed=1)
    silent = tuple([replace(p, transcript=None, reference_transcript=None) for p in rows] for rows in second)
    assert {"uar", "wer"} <= set(compare_repeats([first], [second], resamples=20))
    assert "wer" not in compare_repeats([first], [silent], resamples=20)


def test_a_true_gain_is_shown_and_lies_above_what_the_data_could_show():
    a, b = systems(gain=0.4)
    found = compare(a, b, resamples=500).differences
    assert found["uar"].shown and found["uar"].difference > found["uar"].smallest > 0
    assert found["wer"].shown and found["wer"].difference < 0
    back = compare(b, a, resamples=500).differences["uar"]
    assert back.interval == pytest.approx([-found["uar"].interval[1], -found["uar"].interval[0]])


def test_intervals_cover_no_difference_about_as_often_as_promised():
    shown = [
        compare(*systems(speakers=15, clips=12, seed=s), resamples=200).differences["uar"].shown
        for s in range(60)
    ]
    assert sum(shown) <= 10


def test_the_power_is_about_eighty_percent_at_the_smallest_difference():
    # gain g raises a right share of .5 to .5 + .5 g
    smallest = compare(*systems(seed=100), resamples=500).differences["uar"].smallest
    shown = [
        compare(*systems(gain=2 * smallest, seed=s), resamples=200).differences["uar"].shown
        for s in range(40)
    ]
    assert 0.6 <= np.mean(shown) <= 0.97


def test_pairing_takes_out_the_difficulty_that_both_share():
    a, b = systems(spread=0.45)
    paired = compare(a, b, resamples=500).differences["uar"].interval
    alone = [score(rows, resamples=500).emotion.metrics["uar"].speaker for rows in (a, b)]
    unpaired = np.sqrt(sum((high - low) ** 2 for low, high in alone))
    assert paired[1] - paired[0] < 0.6 * unpaired


def test_speakers_make_wider_intervals_than_clips_where_speakers_differ():
    a, _ = systems(spread=0.45)
    same = [replace(p, emotion="anger") for p in a]
    by_speaker = compare(a, same, resamples=300).differences["accuracy"]
    unnamed = compare(
        [replace(p, speaker=None) for p in a], [replace(p, speaker=None) for p in same], resamples=300
    )
    by_clip = unnamed.differences["accuracy"]
    assert (by_speaker.unit, by_clip.unit) == ("speaker", "clip")
    assert by_speaker.smallest > 1.5 * by_clip.smallest
    assert unnamed.speakers == 0 and "no row names a speaker: resampled by clip" in unnamed.warnings[0]


def test_different_ids_are_named():
    a, b = systems(speakers=2, clips=4)
    with pytest.raises(
        PredictionsError, match=r"1 only in the first \('1-3'\); 4 only in the second.*'y', 'z', \.\.\."
    ):
        extra = [Prediction(name, emotion="fear") for name in "xyzw"]
        compare(a, [*b[:-1], *extra])


@pytest.mark.parametrize("field", ["reference_emotion", "reference_transcript", "speaker"])
def test_different_references_are_named(field):
    a, b = systems(speakers=2, clips=4)
    b[3] = replace(b[3], **{field: "other"})
    with pytest.raises(
        PredictionsError, match=rf"{field} differs between the files for 1 clip: '0-3': .* 'other'"
    ):
        compare(a, b)


def test_references_that_the_normaliser_makes_equal_are_equal():
    a, b = systems(speakers=2, clips=8)
    loud = [replace(p, reference_transcript="A, B!") for p in b]
    assert compare(a, loud, resamples=20) == compare(a, b, resamples=20)
    with pytest.raises(PredictionsError, match="reference_transcript differs"):
        compare(a, loud, normalizer="none")


def test_a_file_without_references_and_speakers_takes_them_from_the_other():
    a, b = systems(gain=0.2, speakers=3)
    bare = [Prediction(p.id, emotion=p.emotion) for p in b]
    found = compare(a, bare, resamples=50)
    assert found.differences["uar"] == compare(a, b, resamples=50).differences["uar"]
    assert "wer" not in found.differences
    assert "transcript is not compared: only one of the files answers it" in found.warnings


def test_a_clip_one_system_did_not_answer_is_wrong_or_out_for_both():
    a, b = systems(speakers=3, clips=8)
    b[0] = Prediction(b[0].id, error="broken")
    found = compare(a, b, resamples=20)
    assert (found.clips, found.unanswered) == (24, 1)
    expected = [replace(b[0], error=None, emotion="nothing", transcript=""), *b[1:]]
    assert found.differences["uar"] == compare(a, expected, resamples=20).differences["uar"]
    assert found.differences["wer"] == compare(a, expected, resamples=20).differences["wer"]
    out = compare(a, b, resamples=20, errors="leave-out")
    assert out.clips == 23
    assert out.differences == compare(a[1:], b[1:], resamples=20).differences


def test_files_without_a_common_task_cannot_be_compared():
    a, b = systems(speakers=2, clips=4)
    only = [replace(p, emotion=None) for p in a], [replace(p, transcript=None) for p in b]
    with pytest.raises(PredictionsError, match="nothing to compare"):
        compare(*only)


def test_systems_that_answered_no_clip_in_common_are_not_compared_by_leaving_out():
    a, b = systems(speakers=2, clips=4)
    halves = [
        [p if int(p.speaker) == i else replace(p, emotion=None, transcript=None) for p in rows]
        for i, rows in enumerate((a, b))
    ]
    assert compare(*halves, resamples=20).unanswered == 8
    with pytest.raises(PredictionsError, match="no clip has an answer for emotion in both files"):
        compare(*halves, errors="leave-out")


def test_ratings_and_further_classes_are_compared_too():
    random = np.random.default_rng(3)
    a, b = [], []
    for clip in range(60):
        true, label = random.normal(), "fm"[clip % 2]
        base = Prediction(f"{clip}", speaker=f"s{clip % 12}")
        for rows, noise, right in ((a, 1.0, 0.6), (b, 0.3, 0.95)):
            share = 0.9 if random.random() < right else 0.1
            shares = {label: share, "mf"[clip % 2]: 1 - share}
            rated = {"arousal": true + noise * random.normal(), "reference_arousal": true}
            rows.append(
                replace(base, **rated, classes={"gender": shares}, reference_classes={"gender": label})
            )
    # What only one file holds of the references serves both.
    found = compare([replace(p, reference_arousal=None, reference_classes=None) for p in a], b)
    assert found.warnings == ()
    for name in ("ccc", "ccc_arousal", "uar_gender"):
        alone = [score(rows).as_dict() for rows in (a, b)]
        values = [
            one["dimensions"][name] if name in one["dimensions"] else one["classes"]["gender"]["uar"]
            for one in alone
        ]
        difference = found.differences[name]
        assert (difference.a, difference.b) == pytest.approx([value["value"] for value in values])
        assert difference.shown and difference.unit == "speaker"
    other = [replace(p, valence=p.arousal, reference_valence=p.reference_arousal) for p in b]
    two = compare(a, other)
    assert two.warnings == ("dimensions are not compared: arousal beside arousal, valence",)
    assert "ccc" not in two.differences and "uar_gender" in two.differences
    with pytest.raises(PredictionsError, match="reference_classes differs between the files for 60 clips"):
        compare(a, [replace(p, reference_classes={"gender": "x"}) for p in b])


def test_a_class_field_that_one_file_has_alone_leaves_the_others_compared():
    rows = [
        Prediction(
            f"{n}",
            speaker=f"s{n % 12}",
            classes={"gender": {"f": 1.0}},
            reference_classes={"gender": "fm"[n % 2]},
        )
        for n in range(24)
    ]
    more = [
        replace(
            p,
            classes={**(p.classes or {}), "age": {"old": 1.0}},
            reference_classes={"gender": "fm"[n % 2], "age": "old"},
        )
        for n, p in enumerate(rows)
    ]
    found = compare(rows, more, resamples=20)
    assert found.differences["uar_gender"].difference == 0 and "uar_age" not in found.differences
    assert found.warnings == ("age is not compared: only one of the files answers it",)


@pytest.mark.parametrize(("speakers", "decided"), [(1, False), (2, False), (4, False), (5, True), (9, True)])
def test_with_fewer_than_five_speakers_there_is_an_interval_and_no_verdict(speakers, decided):
    a, b = systems(gain=1.0, speakers=speakers, spread=0.1)
    found = compare(a, b, resamples=200).differences
    for value in found.values():
        low, high = value.interval
        assert low > 0 or high < 0  # zero is left out, whatever the number of speakers
        assert (value.shown, not value.missing, value.speakers) == (decided, decided, speakers)
        assert value.as_dict()["shown"] == decided and value.as_dict()["missing"] == value.missing
    repeated = compare_repeats([(a, b), (a, b)], resamples=200)["uar"]
    assert (repeated.shown, repeated.speakers) == (decided, speakers)


def test_speakers_that_no_row_names_give_no_verdict():
    a, b = ([replace(p, speaker=None) for p in rows] for rows in systems(gain=1.0))
    assert (
        compare(a, b, resamples=50)
        .differences["uar"]
        .missing.startswith("no verdict with no known speakers:")
    )


def test_speakers_of_two_conditions_are_counted_once():
    first, second = systems(speakers=3, clips=8), systems(speakers=4, clips=8, seed=1)
    assert compare_repeats([first], [second], resamples=20)["uar"].speakers == 4


def test_word_errors_of_both_stand_beside_the_difference():
    a, b = systems(gain=0.2, speakers=6)
    found = compare(a, b, resamples=20)
    assert found.word_errors is not None
    for system, errors in zip((a, b), found.word_errors, strict=True):
        expected = jiwer.process_words(
            [p.reference_transcript for p in system], [p.transcript for p in system]
        )
        assert errors.by_kind == {kind: getattr(expected, kind) for kind in errors.by_kind}
    assert found.as_dict()["word_errors"]["b"] == found.word_errors[1].as_dict()
    silent = [replace(p, transcript=None) for p in b]
    assert "word_errors" not in compare(a, silent, resamples=20).as_dict()


def test_few_speakers_are_told_for_the_task_that_has_them():
    words, emotions = systems(speakers=12, clips=4), systems(speakers=4, clips=4, seed=1)
    heard = [replace(p, id=f"w{p.id}", emotion=None, reference_emotion=None) for p in words[0]]
    felt = [replace(p, transcript=None, reference_transcript=None) for p in emotions[0]]
    (warning,) = score(heard + felt).warnings
    assert warning.startswith("emotion: only 4 speakers: ")
    assert score(felt).warnings == (warning.removeprefix("emotion: "),)
    assert compare(heard + felt, heard + felt).warnings == (warning,)
