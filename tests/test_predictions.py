"""Predictions files and run folders: what is written reads back, and is never half there."""

from __future__ import annotations

import json
import os
import threading
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.errors import PredictionsError, VoxstrataError
from voxstrata.labels import is_one_line
from voxstrata.predictions import Prediction, read_predictions, sum_to_one, write_predictions
from voxstrata.runs import RunFolder, atomic_write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def shares(numbers):
    return {name: number / sum(numbers.values()) for name, number in numbers.items()}


#: Names of speakers and classes are read in one form, and none is empty.
NAME = TEXT.filter(str.strip).map(lambda name: unicodedata.normalize("NFC", name))
ROWS = st.lists(
    st.builds(
        Prediction,
        id=st.text("abc/1", min_size=1),
        path=st.none() | TEXT,
        speaker=st.none() | NAME,
        emotion=st.none() | NAME,
        probabilities=st.none()
        | st.dictionaries(NAME.filter(is_one_line), st.floats(0.1, 1), min_size=1, max_size=3).map(shares),
        transcript=st.none() | TEXT,
        reference_transcript=st.none() | TEXT,
        error=st.none() | TEXT.filter(bool),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda row: row.id,
)


@given(rows=ROWS)
def test_what_is_written_reads_back(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    write_predictions(path, rows)
    assert read_predictions(path) == rows
    assert path.read_bytes().count(b"\n") == len(rows)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\r"])
def test_a_separator_inside_a_transcript_breaks_no_row(separator, tmp_path):
    row = Prediction("a", transcript=f"one{separator}two")
    write_predictions(tmp_path / "p.jsonl", [row, Prediction("b")])
    assert read_predictions(tmp_path / "p.jsonl")[0] == row


def test_other_systems_may_number_ids_and_speakers_and_end_lines_as_they_like(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(
        b'{"id": 7, "speaker": 3, "mine": [1], "emotion": null}\r\n\r\n{"id": "b", "speaker": "x"}'
    )
    assert read_predictions(path) == [Prediction("7", speaker="3"), Prediction("b", speaker="x")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "a", "transcript": "caf\xe9"}\n', "is not UTF-8 text"),
        (b'{"id": null}\n', "line 1: a row is an object with at least"),
        (b'{"id": ["a"]}\n', "line 1: 'id' must be a string"),
        (b'{"id": true}\n', "line 1: 'id' must be a string"),
        (
            b'{"id": "a"}\n{"id": "b", "probabilities": {"x": true}}',
            "line 2: 'probabilities' must be an object",
        ),
        (b'{"id": 1}\n{"id": "1"}\n', "line 2: id '1' stands already in line 1"),
        (b"\n\n", "holds no rows"),
    ],
)
def test_rows_that_do_not_hold_are_named(content, message, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(PredictionsError, match=message):
        read_predictions(tmp_path / "p.jsonl")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_either_end_of_line_are_read(mark, end, tmp_path):
    rows = [b'{"id": "a", "emotion": "fear"}', b'{"id": "b", "transcript": "go\\r\\non"}']
    (tmp_path / "p.jsonl").write_bytes(mark + end.join(rows) + end)
    assert read_predictions(tmp_path / "p.jsonl") == [
        Prediction("a", emotion="fear"),
        Prediction("b", transcript="go\r\non"),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("probabilities", '{"x": NaN, "y": 1}'),
        ("probabilities", '{"x": Infinity}'),
        ("probabilities", '{"x": 1e400}'),
        ("probabilities", '{"x": -0.5, "y": 1.5}'),
        ("probabilities", '{"x": 60, "y": 40}'),
        ("probabilities", '{"x": 2.1, "y": -0.3, "z": 0.7}'),
        ("probabilities", "[0.5, 0.5]"),
        ("classes", '{"gender": {"f": NaN, "m": 0.1}}'),
        ("classes", '{"age": {"old": 1}, "gender": {"f": -0.1, "m": 1}}'),
        ("classes", '{"gender": {}}'),
        ("classes", '{"gender": null}'),
        ("classes", "[1]"),
        ("arousal", "NaN"),
        ("valence", "-Infinity"),
        ("dominance", "1e308"),
        ("reference_arousal", "-1e308"),
        ("reference_arousal", "1" + 300 * "0"),
        ("speaker", "NaN"),
        ("emotion", "NaN"),
        ("reference_emotion", "Infinity"),
        ("transcript", "NaN"),
        ("reference_transcript", "NaN"),
        ("reference_classes", '{"gender": NaN}'),
        ("error", "NaN"),
    ],
)
def test_answers_that_are_no_answers_are_refused_with_row_and_field(field, value, tmp_path):
    (tmp_path / "p.jsonl").write_text(f'{{"id": "a"}}\n{{"id": "b", "{field}": {value}}}\n')
    with pytest.raises(PredictionsError, match=rf"p\.jsonl, line 2: '{field}' must be ") as caught:
        read_predictions(tmp_path / "p.jsonl")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=9))
def test_shares_rounded_to_two_decimals_still_sum_to_one(tmp_path_factory, numbers):
    path = tmp_path_factory.getbasetemp() / "rounded.jsonl"
    rounded = {str(i): round(n / sum(numbers), 2) for i, n in enumerate(numbers)}
    path.write_text(json.dumps({"id": "a", "probabilities": rounded}))
    assert sum_to_one(read_predictions(path)[0].probabilities)


def test_what_other_systems_add_may_hold_what_it_likes(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "emotion": null, "theirs": [NaN, Infinity]}\n')
    assert read_predictions(tmp_path / "p.jsonl") == [Prediction("a")]


@pytest.mark.parametrize("name", ["a\\nb", "a\\u0000", "\\r", "a\\u2028b", "\\u001b[31m", "a\\u0085"])
def test_an_id_of_several_lines_or_with_control_characters_is_refused(name, tmp_path):
    (tmp_path / "p.jsonl").write_text(f'{{"id": "{name}"}}\n')
    with pytest.raises(PredictionsError, match="line 1: 'id' must be one line of text"):
        read_predictions(tmp_path / "p.jsonl")


@pytest.mark.parametrize("name", ["a b", "a\\u3000b", "ann's/été-1", "\\ud83d\\ude00"])
def test_other_ids_are_read(name, tmp_path):
    (tmp_path / "p.jsonl").write_text(f'{{"id": "{name}"}}\n')
    assert read_predictions(tmp_path / "p.jsonl")[0].id == json.loads(f'"{name}"')


@pytest.mark.parametrize(
    "line", ['{"id": "a\\ud800"}', "[" * 100_000, '{"id": ' + "9" * 5_000 + "}", "{'id': 1}", '{"id": "a"']
)
def test_lines_that_are_not_json_are_one_line(line, tmp_path):
    (tmp_path / "p.jsonl").write_text(f'{{"id": "x"}}\n{line}\n')
    with pytest.raises(PredictionsError, match=r"p\.jsonl, line 2 is not JSON: ") as caught:
        read_predictions(tmp_path / "p.jsonl")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    atomic_write(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        VoxstrataError, match=r"cannot write .*file.json: No space left on device; free space"
    ):
        atomic_write(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for act in (
        lambda: atomic_write(tmp_path / "file" / "below" / "x.json", "{}"),
        lambda: RunFolder(tmp_path / "file" / "run").lock().__enter__(),
    ):
        with pytest.raises(VoxstrataError, match=r"cannot write .*: Not a directory"):
            act()


def test_a_run_folder_is_held_by_one_at_a_time(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.lock():
        found: list[str] = []

        def other() -> None:
            try:
                with RunFolder(tmp_path / "run").lock():
                    found.append("entered")
            except VoxstrataError as fault:
                found.append(str(fault))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(found) == 1 and "in use by another process" in found[0]
    with run.lock():
        pass


def test_a_journal_line_that_a_crash_cut_off_is_passed_over(tmp_path):
    run = RunFolder(tmp_path)
    rows = [{"kind": "step", "loss": 1.0}, {"kind": "validation", "note": "a\u2028b"}]
    for row in rows:
        run.append(row)
    with run.journal.open("a") as file:
        file.write(json.dumps({"kind": "step"})[:-4])
    assert run.journal_rows() == rows
    assert run.journal_rows("validation") == rows[1:]


def test_names_that_differ_in_unicode_only_are_the_same(tmp_path):
    composed, parted = "\u00e4rger", "a\u0308rger"
    row = {
        "id": "1",
        "emotion": parted,
        "reference_emotion": composed,
        "probabilities": {parted: 1.0},
        "speaker": "a\u0308",
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = read_predictions(tmp_path / "p.jsonl")
    assert found.emotion == found.reference_emotion == composed and found.speaker == "\u00e4"
    assert found.probabilities == {composed: 1.0}
