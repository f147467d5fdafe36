"""Tables of people's own corpora, as spreadsheets, pandas and Common Voice write them."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.corpora import own_table as table
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import CorpusError


def clips_of(folder: Path, name: str, content: str | bytes) -> list[Clip]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return table.read(path)


def refused(folder: Path, name: str, content: str) -> str:
    with pytest.raises(CorpusError) as caught:
        clips_of(folder, name, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotation_marks_in_tsv_are_characters(tmp_path: Path, end: str) -> None:
    texts = ['"Go on', 'he said "stop"', "what", 'and then"', '"', 'a "" b']
    lines = ["path\ttext\tspeaker", *(f"{i}.mp3\t{text}\tann" for i, text in enumerate(texts))]
    clips = clips_of(tmp_path, "x.tsv", end.join(lines) + end)
    assert [clip.id for clip in clips] == [f"x/{i}" for i in range(6)]
    assert [clip.text for clip in clips] == ["go on", "he said stop", "what", "and then", None, "a b"]
    assert {clip.speaker for clip in clips} == {"x-ann"}


@given(st.lists(st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"])), max_size=8))
def test_every_line_of_a_tsv_is_a_clip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("tsv")
    lines = ["path\tnote", "0.wav\t-", *(f"{i}.wav\t{text}" for i, text in enumerate(texts, start=1))]
    clips = clips_of(folder, "x.tsv", "\n".join(lines))
    assert [clip.extras.get("note", "") for clip in clips] == ["-", *(text.strip() for text in texts)]


ROW = ["a,b", 'say "stop"', "'", "plain", "", "caf\u00e9 \u201cno\u201d", 'ends with "', '"begins']


@pytest.mark.parametrize("seed", range(5))
def test_csv_as_spreadsheets_write_it_is_read(tmp_path: Path, seed: int) -> None:
    notes = random.Random(seed).sample(ROW, len(ROW))
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([("path", "note"), *((f"{i}.wav", note) for i, note in enumerate(notes))])
    clips = clips_of(tmp_path, "x.csv", "\ufeff" + file.getvalue())
    assert [clip.extras.get("note", "") for clip in clips] == notes


@pytest.mark.parametrize("line", [2, 3, 5])
def test_a_quotation_mark_that_nothing_closes_is_named_with_its_line(tmp_path: Path, line: int) -> None:
    lines = ["path,text,speaker", *(f"{i}.wav,go on,ann" for i in range(2, 6))]
    lines[line - 1] = lines[line - 1].replace("go on", '"go on')
    said = refused(tmp_path, "x.csv", "\n".join(lines) + "\n")
    assert f"line {line}: a quotation mark opens a field here and none closes it" in said


def test_an_open_quotation_mark_behind_a_field_of_two_lines_is_the_one_that_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path, "x.csv", 'path,text,note\na.wav,"go\non","hm\nb.wav\n')
    assert "line 3: a quotation mark opens" in said


@pytest.mark.parametrize("last", [3, 5])
def test_rows_that_a_quotation_swallows_are_not_lost_without_a_word(tmp_path: Path, last: int) -> None:
    # Common Voice, saved as CSV: the text of one row opens with a mark, that of another ends with one.
    lines = ["path,text", *(f"{i}.wav,go on" for i in range(2, 7))]
    lines[1] = '2.wav,"go on'
    lines[last - 1] += '"'
    said = refused(tmp_path, "x.csv", "\n".join(lines))
    assert (
        f"line 2: a quotation mark opens a field here and takes in what look like rows, up to line {last}"
        in said
    )


def test_a_text_of_two_lines_in_quotation_marks_is_one_text(tmp_path: Path) -> None:
    (clip, other) = clips_of(tmp_path, "x.csv", 'path,text,speaker\na.wav,"go\non",ann\nb.wav,hm,bob\n')
    assert (clip.text, clip.speaker, other.text) == ("go on", "x-ann", "hm")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('path,text\na.wav,"go" on\nb.wav,hm\n', "line 2: a quotation mark closes before its field ends"),
        ('path,"text\na.wav,hm\n', "line 1: a quotation mark opens a field here and none closes it"),
        ("path|text\na.wav|hm\n", "found path|text; columns are parted by commas"),
        ("path,text\na\x00.wav,hm\n", "line 2: path must be one line without control characters"),
    ],
)
def test_other_csv_that_is_none_is_named_by_line(tmp_path: Path, content: str, said: str) -> None:
    assert said in refused(tmp_path, "x.csv", content)


def test_tsv_whose_columns_are_parted_by_commas_says_what_parts_them(tmp_path: Path) -> None:
    assert "columns are parted by tabs" in refused(tmp_path, "x.tsv", "path,text\na.wav,hm\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "path,text\na.wav,hm\n"),
        ("x.tsv", "path\ttext\na.wav\thm\n"),
        ("x.jsonl", '{"path": "a.wav", "text": "hm"}\n'),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_of_any_system_are_read(tmp_path: Path, name: str, content: str, mark: str, end: str) -> None:
    (clip,) = clips_of(tmp_path, name, mark + content.replace("\n", end))
    assert (clip.id, clip.text) == ("x/a", "hm")


def test_nan_in_jsonl_is_as_null(tmp_path: Path) -> None:
    names = ("speaker", "emotion", "text", "split", "id", "votes", "votes:anger", "room")
    rows = [{"path": "a.wav", **dict.fromkeys(names, value)} for value in (float("nan"), None)]
    nan, null = (clips_of(tmp_path, "x.jsonl", json.dumps(row)) for row in rows)
    assert nan == null and nan[0] == Clip("x/a", tmp_path / "a.wav", None, "train")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speaker", "Infinity"),
        ("text", "-Infinity"),
        ("votes", '{"anger": NaN}'),
        ("room", "[NaN]"),
        ("room", "Infinity"),
        ("speaker", '"a\\nb"'),
        ("emotion", '"\\u0000"'),
        ("speaker", "true"),
    ],
)
def test_what_is_no_value_is_one_fault_of_its_row(tmp_path: Path, field: str, value: str) -> None:
    said = refused(tmp_path, "x.jsonl", f'{{"path": "a.wav"}}\n{{"path": "b.wav", "{field}": {value}}}\n')
    assert "x.jsonl: line 2: " in said and (field in said or "anger" in said)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"path": ' + "9" * 5000 + "}", '{"path": "\\ud800"}', "{"])
def test_lines_that_are_not_json_are_named(tmp_path: Path, line: str) -> None:
    said = refused(tmp_path, "x.jsonl", f'{{"path": "a.wav"}}\n{line}\n')
    assert "line 2: the row is not JSON: " in said and len(said) < 500


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("../audio/1.wav", "x/audio/1"),
        ("../../1.wav", "x/1"),
        ("/data/a/1.wav", "x/1"),
        ("C:\\data\\1.wav", "x/1"),
        ("./a/b.c/1.wav", "x/a/b.c/1"),
        ("a/1", "x/a/1"),
    ],
)
def test_an_id_made_of_a_path_leads_nowhere(tmp_path: Path, path: str, expected: str) -> None:
    (clip,) = clips_of(tmp_path, "x.jsonl", json.dumps({"path": path}))
    assert clip.id == expected and clip.path == tmp_path / path.replace("\\", "/")


def test_names_are_compared_in_one_form(tmp_path: Path) -> None:
    """Composed or not, with or without what is not seen: one speaker, one class."""
    spellings = ["J\u00fcrgen", "Ju\u0308rgen", "J\u00fcrgen\u200b"]
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", np.random.default_rng(i).normal(size=8000) * 0.1, 16_000)
    rows = [
        {
            "path": f"{i}.wav",
            "speaker": spellings[i % 3],
            "emotion": ["a\u0308rger", "\u00e4rger", "ruhe"][i % 3],
        }
        for i in range(6)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare("table", tmp_path / "t.jsonl", tmp_path / "p")
    assert prepared.labels == ("ruhe", "\u00e4rger") and list(prepared.summary.speakers) == ["t-J\u00fcrgen"]
    leak = [{**row, "split": "train" if i % 3 else "test"} for i, row in enumerate(rows)]
    (tmp_path / "leak.jsonl").write_text("".join(json.dumps(row) + "\n" for row in leak))
    with pytest.raises(CorpusError, match="two splits"):
        prepare("table", tmp_path / "leak.jsonl", tmp_path / "q")
