"""Tables as people have them: spreadsheets' CSV, UTF-16, names in capitals, and files that are no tables."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxstrata.corpora import own_table as table
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import CorpusError

ROWS = [("a.wav", "ann", "anger", "go on", "2"), ("b.wav", "bob", "neutral", "hm, no", "1")]
NAMES = ("path", "speaker", "emotion", "text", "votes:anger")


def read(folder: Path, name: str, content: str | bytes) -> list[Clip]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return table.read(folder / name)


def refused(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(CorpusError) as caught:
        read(folder, name, content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def jsonl(names: tuple[str, ...] = NAMES) -> str:
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in ROWS)


def csv_text(delimiter: str, names: tuple[str, ...] = NAMES) -> str:
    lines = [delimiter.join(names)]
    lines += [delimiter.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in ROWS]
    return "\n".join(lines) + "\n"


@pytest.fixture
def expected(tmp_path: Path) -> list[Clip]:
    return [
        Clip("x/a", tmp_path / "a.wav", "x-ann", "train", "anger", {"anger": 2.0}, "go on"),
        Clip("x/b", tmp_path / "b.wav", "x-bob", "train", "neutral", {"anger": 1.0}, "hm no"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_is_parted_by_what_parts_its_header(
    tmp_path: Path, expected: list[Clip], delimiter: str, said: bool, end: str
) -> None:
    text = (f"sep={delimiter}\n" if said else "") + csv_text(delimiter)
    assert read(tmp_path, "x.csv", text.replace("\n", end)) == expected


def test_quotation_marks_and_lines_hold_with_semicolons_too(tmp_path: Path) -> None:
    (clip,) = read(tmp_path, "x.csv", 'path;text;note\n"a;b.wav";"say ""no"";\nnow";-\n')
    assert (clip.path.name, clip.text) == ("a;b.wav", "say no now")
    said = refused(tmp_path, "x.csv", 'sep=;\npath;text\na.wav;hm\nb.wav;"hm\n')
    assert "line 4: a quotation mark opens a field here" in said
    said = refused(tmp_path, "x.csv", 'path;text\na.wav;"go on\nb.wav;hm\nc.wav;no"\n')
    assert "line 2: a quotation mark opens a field here and takes in what look like rows" in said
    assert "line 3: 1 fields where the header has 2" in refused(tmp_path, "x.csv", "path;text\na;b\nc\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.tsv"])
def test_a_byte_order_mark_tells_the_encoding(
    tmp_path: Path, expected: list[Clip], encoding: str, name: str
) -> None:
    texts = {"x.csv": csv_text(";"), "x.jsonl": jsonl(), "x.tsv": csv_text("\t").replace('"', "")}
    assert read(tmp_path, name, texts[name].encode(encoding)) == expected


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_or_cut_off_is_said(tmp_path: Path, mark: str) -> None:
    assert "looks like UTF-16 without a byte order mark" in refused(
        tmp_path, "x.csv", csv_text(",").encode(mark)
    )
    assert "is not UTF-16; save it as UTF-8" in refused(
        tmp_path, "x.csv", csv_text(",").encode("utf-16")[:-1]
    )


@pytest.mark.parametrize(
    "names",
    [
        ("Path", "Speaker", "Emotion", "TEXT", "Votes:anger"),
        (" path ", " speaker", "emotion ", "Transcript", "votes: anger "),
        ("PATH", "SPEAKER", "Label", "text", "VOTES:anger"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_columns_in_capitals_or_with_spaces_are_those_that_are_meant(
    tmp_path: Path, expected: list[Clip], names: tuple[str, ...], name: str
) -> None:
    assert read(tmp_path, name, csv_text(",", names) if name == "x.csv" else jsonl(names)) == expected


def test_other_columns_keep_their_names_and_known_extras_are_found(tmp_path: Path) -> None:
    row = {"path": "a.wav", "Start": 1, " END": 2.5, "Room ": "hall", "Fold": 2, "Arousal": 3.5}
    (clip,) = read(tmp_path, "x.jsonl", json.dumps(row))
    assert (clip.start_s, clip.end_s) == (1.0, 2.5)
    assert clip.extras == {"Room": "hall", "fold": "2", "arousal": "3.5"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("path", "text", "Text"), "column 'text' stands twice, as 'text' and 'Text'; keep one"),
        (("path", "speaker", " speaker"), "column 'speaker' stands twice"),
        (("path", "votes:anger", "Votes: anger"), "column 'votes:anger' stands twice"),
        (("path", "votes:"), "column 'votes:' names no class; call it votes:NAME"),
        (("path", "Votes: "), "column 'Votes: ' names no class"),
        (("Filename", "text"), "a column 'path' is needed; found Filename, text; if 'Filename' names the"),
        (("audio path", "text"), "if 'audio path' names the recordings, call it 'path'"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_columns_that_are_not_clear_are_said_in_one_line(
    tmp_path: Path, name: str, names: tuple[str, ...], said: str
) -> None:
    if name == "x.csv":
        found = refused(tmp_path, name, ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    else:
        found = refused(tmp_path, name, json.dumps(dict.fromkeys(names, "1")))
        said = said.replace("a column 'path' is needed; found Filename, text", "line 1: no path")
    assert said in found


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"votes": {"anger": 1}, "votes:joy": 2}, "votes stand in 'votes' and in 'votes:joy'"),
        ({"votes": {"": 1}}, "votes name no class"),
        ({"votes": '{" ": 1, "joy": 1}'}, "votes name no class"),
        ({"emotion_votes": {"joy": 1}, "votes:joy": 1}, "give them in one way"),
    ],
)
def test_votes_that_are_not_clear_are_a_fault_of_their_row(tmp_path: Path, row: object, said: str) -> None:
    lines = [json.dumps({"path": "a.wav", "votes": {"joy": 1}}), json.dumps({"path": "b.wav", **row})]  # type: ignore[dict-item]
    found = refused(tmp_path, "x.jsonl", "\n".join(lines))
    assert "line 2: " in found and said in found


def test_empty_votes_in_one_form_leave_the_other(tmp_path: Path) -> None:
    (clip,) = read(tmp_path, "x.jsonl", '{"path": "a.wav", "votes": {}, "votes:joy": 2}')
    assert clip.votes == {"joy": 2.0}
    (clip,) = read(tmp_path, "x.jsonl", '{"path": "a.wav", "votes": {"joy": 3}, "votes:joy": null}')
    assert clip.votes == {"joy": 3.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,emotion\na.wav,anger\nb.wav,Anger\n", "'anger' (clip x/a) and 'Anger' (clip x/b)"),
        ("path,emotion,votes:Joy\na.wav,joy,1\n", "'joy' (clip x/a) and 'Joy' (clip x/a)"),
        ("path,votes:ÄRGER,votes:ärger\na.wav,1,2\n", "'ÄRGER' (clip x/a) and 'ärger' (clip x/a)"),
    ],
)
def test_classes_that_differ_only_in_capitals_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(CorpusError) as caught:
        prepare("table", tmp_path / "x.csv", tmp_path / "prepared")
    assert f"classes differ only in capitals or spaces: {said}; write them alike, or map one: --map " in str(
        caught.value
    )


def test_classes_that_a_map_brings_together_are_one(tmp_path: Path) -> None:
    for step, name in ((5, "a"), (7, "b")):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * np.sin(np.arange(16_000) / step), 16_000)
    (tmp_path / "x.csv").write_text("path,emotion\na.wav,anger\nb.wav,Anger\n")
    corpus = prepare("table", tmp_path / "x.csv", tmp_path / "prepared", maps=("Anger=anger",))
    assert {cut.supervisions[0].custom["emotion"] for cut in corpus.cuts("train")} == {"anger"}


def test_a_key_that_stands_twice_is_a_fault_of_its_row(tmp_path: Path) -> None:
    found = refused(tmp_path, "x.jsonl", '{"path": "a.wav"}\n{"path": "b.wav", "id": 1, "id": 2}\n')
    assert "line 2: the row: the key 'id' stands twice in one object; keep one" in found


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_told_as_such(tmp_path: Path, indent: int | None) -> None:
    rows = [{"path": "a.wav"}, {"path": "b.wav"}]
    said = refused(tmp_path, "x.jsonl", json.dumps(rows, indent=indent))
    assert "x.jsonl is a JSON list, not JSON lines; write one object a line" in said
    said = refused(tmp_path, "x.jsonl", json.dumps(rows[0], indent=2))
    assert "is a JSON object over several lines" in said
    assert "x.json is JSON; a table is JSON lines" in refused(tmp_path, "x.json", json.dumps(rows))


def workbook() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (workbook(), "a workbook (Excel, LibreOffice) or another zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "an old Excel workbook"),
        (b"PAR1" + bytes(100) + b"PAR1", "a Parquet file"),
        (gzip.compress(csv_text(",").encode(), mtime=0), "packed by gzip"),
        (b"<!DOCTYPE html><html></html>", "a web page or XML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "a web page or XML"),
    ],
    ids=["zip", "xls", "parquet", "gzip", "html", "xml"],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx", ".parquet", ".ods", ""])
def test_what_is_no_table_is_told_by_what_it_is(
    tmp_path: Path, content: bytes, said: str, suffix: str
) -> None:
    assert f"calls{suffix} is {said}, not a table" in refused(tmp_path, f"calls{suffix}", content)


def test_a_folder_with_a_workbook_alone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "calls.xlsx").write_bytes(workbook())
    with pytest.raises(CorpusError, match=r"found none, beside calls\.xlsx: export the table as CSV"):
        table.read(tmp_path)
    assert "x.txt is not called as a table" in refused(tmp_path, "x.txt", csv_text(","))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize("name", ["pipe.csv", "pipe.jsonl", "pipe"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    command = ["corpus", "prepare", "table", str(tmp_path / name), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "voxstrata.cli.main", *command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and f"{name} is a pipe, not a file" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no such device here")
def test_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with pytest.raises(CorpusError, match="is a device, not a file"):
        table.read(tmp_path / "zero.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_quotation_mark_opens_a_field_behind_spaces_too(tmp_path: Path, delimiter: str) -> None:
    lines = [
        ("path", " speaker", "  text"),
        ("a.wav", ' "ann"', '  "go; on, now\t""here"""'),
        ("b.wav", " bob", ""),
    ]
    found = read(tmp_path, "x.csv", "".join(f"{delimiter.join(line)}\n" for line in lines))
    assert [(clip.speaker, clip.text) for clip in found] == [("x-ann", "go on now here"), ("x-bob", None)]
    # As pandas reads it with skipinitialspace=True.
    told = refused(tmp_path, "y.csv", 'path, text\na.wav, "go\nb.wav, on"\n')
    assert (
        "line 2: a quotation mark opens a field here and takes in what look like rows, up to line 3" in told
    )
    for odd in ('a.wav,"go" on', 'a.wav,"go" ', 'a.wav, "go"on"'):
        told = refused(tmp_path, "z.csv", f"path,text\n{odd}\n")
        assert (
            "line 2: a quotation mark closes before its field ends" in told and "expected after" not in told
        )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "path,emotion,,\na.wav,joy,,\nb.wav,joy,1,2\n"),
        ("x.csv", ",path, ,emotion\n0,a.wav,1,joy\n1,b.wav,,joy\n"),
        ("x.tsv", "path\t\temotion\t\na.wav\t1\tjoy\t2\nb.wav\t\tjoy\t\n"),
        (
            "x.jsonl",
            '{"path": "a.wav", "emotion": "joy", "": 1, " ": 2}\n{"path": "b.wav", "emotion": "joy"}\n',
        ),
    ],
)
def test_columns_without_a_name_are_passed_over(tmp_path: Path, name: str, content: str) -> None:
    found = read(tmp_path, name, content)
    assert [(clip.id, clip.emotion, clip.extras) for clip in found] == [
        ("x/a", "joy", {}),
        ("x/b", "joy", {}),
    ]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
@pytest.mark.parametrize("marks", [1, 2, 3])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_byte_order_marks_drop_however_many(tmp_path: Path, name: str, marks: int, encoding: str) -> None:
    text = '{"path": "a.wav"}\n' if name == "x.jsonl" else "path\na.wav\n"
    (clip,) = read(tmp_path, name, ("\ufeff" * marks + text).encode(encoding))
    assert clip.id == "x/a"


def test_a_fold_of_thousands_of_digits_is_one_short_line(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16_000) / 5), 16_000)
    (tmp_path / "x.csv").write_text(f"path,speaker,fold\na.wav,ann,{'9' * 5_000}\n")
    with pytest.raises(CorpusError, match=r"clip 'x/a' is in fold '9{40}'; number folds 1, 2, \.\.\.$"):
        prepare("table", tmp_path / "x.csv", tmp_path / "prepared")


ODD_NUMBERS = ["1_0", "\u0661", "0x1", "1e400", "inf", "nan ", "1,5", "2:30", "true"]


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize("column", ["fold", "start", "votes:joy", "arousal"])
def test_numbers_are_those_that_a_person_would_write(tmp_path: Path, column: str, number: str) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16_000) / 5), 16_000)
    (tmp_path / "x.csv").write_text(f'path,speaker,{column}\na.wav,ann,"{number}"\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=f"{re.escape(number.strip())}|faults in 1 clip: 1 unusable rating"):
        prepare("table", tmp_path / "x.csv", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_numbers_of_any_usual_form_are_read(tmp_path: Path) -> None:
    told = read(tmp_path, "x.csv", "path,votes:a,start,end\na.wav, 1.5e1 ,.5,+2.\n")[0]
    assert (told.votes, told.start_s, told.end_s) == ({"a": 15.0}, 0.5, 2.0)


def test_a_place_without_a_table_is_named_and_many_tables_are_counted(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no table at .*nowhere\.csv; give its file"):
        table.read(tmp_path / "nowhere.csv")
    for number in range(9):
        (tmp_path / f"{number}.csv").touch()
    with pytest.raises(
        CorpusError, match=r"found 0\.csv, 1\.csv, 2\.csv, 3\.csv, 4\.csv and 4 more; give the file"
    ):
        table.read(tmp_path)


def test_preparing_leaves_no_empty_line_where_there_is_no_terminal(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16_000) / 5), 16_000)
    (tmp_path / "x.csv").write_text("path\na.wav\n")
    command = ["corpus", "prepare", "table", tmp_path / "x.csv", tmp_path / "prepared"]
    done = subprocess.run(
        [sys.executable, "-m", "voxstrata.cli.main", *command], capture_output=True, text=True, check=True
    )
    assert done.stderr == f"table is prepared in {tmp_path / 'prepared'}\n"
