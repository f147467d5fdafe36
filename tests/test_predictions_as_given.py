"""Predictions of any system: answers against their probabilities, capitals, encodings, options."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.errors import LabelError, PredictionsError, VoxstrataError
from voxstrata.evaluation.comparison import compare
from voxstrata.evaluation.priors import adjust
from voxstrata.evaluation.score import score
from voxstrata.predictions import Prediction, parse_predictions, read_predictions


def row(
    clip: int, answer: str | None, shares: Mapping[str, float] | None, reference: str = "joy"
) -> Prediction:
    return Prediction(
        f"c{clip}", speaker=f"s{clip}", emotion=answer, probabilities=shares, reference_emotion=reference
    )


def warnings(*rows: Prediction) -> list[str]:
    return [line for line in score(rows, resamples=2).warnings if "probable" in line or "capitals" in line]


@pytest.mark.parametrize(
    ("answer", "shares", "told"),
    [
        ("anger", {"joy": 0.8, "anger": 0.2}, "'anger' with 0.2, 'joy' with 0.8"),
        ("anger", {"joy": 0.5, "fear": 0.5}, "'anger' with 0, 'fear' with 0.5"),
        ("anger", {"joy": 0.51, "anger": 0.49}, "'anger' with 0.49, 'joy' with 0.51"),
        ("anger", {"anger": 0.5, "joy": 0.5}, None),
        ("joy", {"anger": 0.5, "joy": 0.5}, None),
        ("joy", {"joy": 0.8, "anger": 0.2}, None),
        ("joy", None, None),
        (None, {"joy": 0.8, "anger": 0.2}, None),
    ],
)
def test_an_answer_against_its_own_probabilities_is_said(
    answer: str | None, shares: Mapping[str, float] | None, told: str | None
) -> None:
    rows = [row(1, "joy", {"joy": 1.0, "anger": 0.0}), row(2, answer, shares, "anger")]
    found = warnings(*rows)
    assert len(found) == (told is not None)
    if told is not None:
        assert (
            f"1 of 2 rows answer another emotion than the most probable one (clip 'c2': {told})" in found[0]
        )
        # What the file answers is scored: of one clip of each class both are right.
        scores = score(rows, resamples=2)
        assert scores.emotion is not None and scores.emotion.metrics["uar"].value == 1


def test_a_failed_row_and_a_chosen_prior_contradict_nothing() -> None:
    failed = Prediction(
        "c3", emotion="anger", probabilities={"joy": 1.0}, reference_emotion="joy", error="cut off"
    )
    rows = [row(1, "joy", {"joy": 0.6, "anger": 0.4}), row(2, "anger", {"joy": 0.6, "anger": 0.4}, "anger")]
    assert warnings(rows[0], failed) == []
    assert len(warnings(*rows)) == 1
    assert warnings(*adjust(rows, {"joy": 0.9, "anger": 0.1}, None).predictions) == []


def test_compare_names_the_file_of_such_answers() -> None:
    good = [row(k, "joy", {"joy": 0.8, "anger": 0.2}) for k in range(2)]
    bad = [row(k, "anger", {"joy": 0.8, "anger": 0.2}) for k in range(2)]
    found = compare(good, bad, resamples=2).warnings
    assert [line.partition(":")[0] for line in found if "most probable" in line] == ["the second file"]


@pytest.mark.parametrize("seed", range(5))
def test_of_equal_shares_the_first_in_the_alphabet_is_the_answer_in_any_order_of_keys(seed: int) -> None:
    names = ["joy", "fear", "anger", "sadness"]
    random.Random(seed).shuffle(names)
    shares = dict.fromkeys(names, 0.25)
    (adjusted,) = adjust([row(1, "joy", shares)], None, None).predictions
    assert adjusted.emotion == "anger"
    rows = [
        Prediction(f"c{k}", classes={"mood": shares}, reference_classes={"mood": name})
        for k, name in enumerate(sorted(names))
    ]
    found = score(rows, resamples=2).classes["mood"]
    assert [counts[0] for counts in found.confusion] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([row(1, "Joy", None), row(2, "joy", None)], "emotion: 'Joy' and 'joy' differ only in capitals"),
        ([row(1, "joy", None, "joy "), row(2, "joy", None)], "emotion: 'joy' and 'joy ' differ"),
        ([row(1, "joy", {"joy": 1.0, "JOY": 0.0})], "emotion: 'JOY' and 'joy' differ"),
        (
            [Prediction("c", classes={"sex": {"F": 1.0}}, reference_classes={"sex": "f"})],
            "sex: 'F' and 'f' differ",
        ),
        ([row(1, "joy", {"joy": 1.0}), row(2, "joyful", None)], None),
    ],
)
def test_classes_that_differ_only_in_capitals_are_named(rows: list[Prediction], told: str | None) -> None:
    found = warnings(*rows)
    assert len(found) == (told is not None) and (told is None or told in found[0])
    again = [line for line in compare(rows, rows, resamples=2).warnings if "capitals" in line]
    assert again == found


@pytest.mark.parametrize("name", ["basics", "", "basic without", "basic without !"])
def test_a_normaliser_is_checked_where_no_clip_has_words_too(name: str) -> None:
    rows = [row(1, "joy", None), row(2, "anger", None)]
    with pytest.raises(VoxstrataError, match="normaliser"):
        score(rows, normalizer=name, resamples=2)
    with pytest.raises(VoxstrataError, match="normaliser"):
        compare(rows, rows, normalizer=name, resamples=2)


def test_labels_are_checked_where_no_clip_has_an_emotion_too() -> None:
    rows = [Prediction("c", transcript="a", reference_transcript="a")]
    for run in (lambda: score(rows, labels=["a", "a"]), lambda: compare(rows, rows, labels=["a"])):
        with pytest.raises(LabelError, match=r"labels are a(, a)?; give two or more"):
            run()


def test_options_of_evaluate_are_checked_at_the_command_line(tmp_path: Path) -> None:
    file = written(tmp_path / "p.jsonl", [{"id": "c", "emotion": "joy", "reference_emotion": "joy"}])
    done = CliRunner().invoke(app, ["evaluate", str(file), "--normalizer", "loud"])
    assert done.exit_code != 0 and "unknown normaliser 'loud'" in str(done.exception)


def written(path: Path, rows: list[Any], encoding: str = "utf-8") -> Path:
    path.write_bytes("".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in rows).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_predictions_in_utf_16_as_powershell_writes_them_are_read(tmp_path: Path, encoding: str) -> None:
    rows = [{"id": "caf\u00e9", "emotion": "joy"}, {"id": "b", "transcript": "\u4f60\u597d"}]
    assert read_predictions(written(tmp_path / "p.jsonl", rows, encoding)) == [
        Prediction(**one) for one in rows
    ]


def test_a_list_a_pipe_and_a_key_that_stands_twice_are_told(tmp_path: Path) -> None:
    for indent in (None, 1):
        with pytest.raises(PredictionsError, match="p is a JSON list, and predictions are JSON lines"):
            parse_predictions(json.dumps([{"id": "a"}], indent=indent).encode(), "p")
    with pytest.raises(PredictionsError, match="p, line 2: the key 'emotion' stands twice in one object"):
        parse_predictions(b'{"id": "a"}\n{"id": "b", "emotion": "joy", "emotion": "fear"}', "p")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PredictionsError, match="is a pipe or device, not a file"):
        read_predictions(tmp_path / "pipe")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\r\n", "\r\r"])
@pytest.mark.parametrize("marks", [0, 1, 2])
def test_lines_end_as_on_any_system(tmp_path, end, marks):
    rows = [{"id": "a", "transcript": "x\u2028y\u0085z"}, {"id": "b", "transcript": "c\rd\n"}]
    text = "\ufeff" * marks + end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    (tmp_path / "p.jsonl").write_bytes(text.encode())
    found = read_predictions(tmp_path / "p.jsonl")
    assert [(row.id, row.transcript) for row in found] == [(row["id"], row["transcript"]) for row in rows]
    bad = text.replace('"b"', "b")
    (tmp_path / "p.jsonl").write_bytes(bad.encode())
    line = 3 if len(end.replace("\r\n", "\n")) == 2 else 2
    with pytest.raises(PredictionsError, match=rf"p\.jsonl, line {line} is not JSON"):
        read_predictions(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"emotion": ""}, "'emotion' must be of names that are not empty; leave out what there is not"),
        ({"reference_emotion": " "}, "'reference_emotion' must be of names that are not empty"),
        ({"speaker": ""}, "'speaker' must be of names that are not empty"),
        ({"probabilities": {"": 1.0}}, "'probabilities' must be of names that are not empty"),
        ({"classes": {"": {"f": 1.0}}}, "'classes' must be of names that are not empty"),
        ({"classes": {"sex": {"": 1.0}}}, "'classes' must be of names that are not empty"),
        ({"reference_classes": {"sex": ""}}, "'reference_classes' must be of names that are not empty"),
        (
            {"classes": {"emotion": {"f": 1.0}}},
            "'classes' must be of other fields than emotion: those stand in the",
        ),
        ({"reference_classes": {"valence": "f"}}, "'reference_classes' must be of other fields than valence"),
        ({"id": " "}, "'id' must be one line of text that is not empty"),
    ],
)
def test_names_that_are_empty_or_taken_are_refused(fields, message):
    row = {"id": "a", "emotion": "b", "reference_emotion": "b", **fields}
    with pytest.raises(PredictionsError) as caught:
        parse_predictions(json.dumps(row).encode(), "it")
    assert str(caught.value).startswith(f"it, line 1: {message}")


def test_words_may_be_none():
    row = {"id": "a", "transcript": "", "reference_transcript": "x"}
    assert parse_predictions(json.dumps(row).encode(), "it")[0].transcript == ""


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "labels are empty; give two or more, or leave labels out to take all that occur"),
        (("a",), "labels are a; give two or more, or leave labels out to take all that occur"),
        (("a", "b", "b"), "labels name b twice; name each once"),
    ],
)
def test_labels_that_are_none_are_named(labels, message):
    rows = [Prediction(name, emotion=name, reference_emotion=name) for name in "ab"]
    for scored in (lambda: score(rows, labels=labels), lambda: compare(rows, rows, labels=labels)):
        with pytest.raises(LabelError) as caught:
            scored()
        assert str(caught.value) == message


def test_a_file_that_is_given_twice_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "emotion": "b", "reference_emotion": "b"}\n')
    done = CliRunner().invoke(app, ["evaluate", *[str(tmp_path / "p.jsonl")] * 2, "--pool"])
    assert str(done.exception) == f"{tmp_path / 'p.jsonl'} is given twice; give each file once"


def test_what_holds_of_both_files_is_said_once():
    rows = [Prediction(str(n), emotion="a", reference_emotion="a", speaker=str(n)) for n in range(12)]
    other = [*rows[:-1], Prediction("11", emotion="c", reference_emotion="a", speaker="11")]
    only = "emotion: all references are 'a'; add clips of other classes"
    assert compare(rows, rows, resamples=3).warnings == (only,)
    found = compare(rows, other, resamples=3).warnings
    assert found[0] == f"the first file: {only}" and found[1].startswith(
        "the second file: emotion: no reference is 'c'"
    )
