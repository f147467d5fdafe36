"""What `corpus prepare` says: all faults of labels at once, equal ones together, and what has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from test_prepare import noise
from voxstrata.cli.main import app
from voxstrata.corpora import own_table
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError, LabelError

SPLITS = ("train", "train", "dev", "test")


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A table with a recording for each row."""
    for number, row in enumerate(rows):
        row.setdefault("path", f"audio/{number}.wav")
        noise(folder / row["path"], number)
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(*words: object) -> tuple[str, Any]:
    """What a preparation prints on both streams, and what it ends with."""
    done = CliRunner().invoke(app, ["corpus", "prepare", "table", *map(str, words)])
    return done.output, done.exception


def with_emotions(folder: Path, *emotions: str) -> Path:
    return table(folder, [{"emotion": emotion} for emotion in emotions])


def test_all_labels_that_a_map_does_not_know_are_named_at_once(tmp_path: Path) -> None:
    names = [f"odd-{number}" for number in range(8)]
    given = with_emotions(tmp_path, "anger", *names)
    with pytest.raises(LabelError) as caught:
        prepare("table", given, tmp_path / "out", maps=["four-classes"])
    assert "no line for 'odd-0', 'odd-1', 'odd-2', 'odd-3', 'odd-4' and 3 more" in str(caught.value)


def test_all_maps_that_fit_no_label_are_named_at_once(tmp_path: Path) -> None:
    given = with_emotions(tmp_path, "anger", "joy")
    with pytest.raises(LabelError) as caught:
        prepare("table", given, tmp_path / "out", maps=["angr=anger", "joy=happiness", "sad=sadness"])
    assert "no clip has 'angr'" in str(caught.value) and "no clip has 'sad'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_spellings_that_differ_are_named_at_once(tmp_path: Path) -> None:
    rows = [
        {"emotion": emotion, "speaker": speaker}
        for emotion, speaker in (("Anger", "ann"), ("anger", "Ann"), ("Joy", "bob"), ("joy", "Bob"))
    ]
    with pytest.raises(CorpusError) as caught:
        prepare("table", table(tmp_path, rows), tmp_path / "out")
    for name in ("'Anger'", "'anger'", "'Joy'", "'joy'", "calls-Ann", "calls-ann", "calls-Bob", "calls-bob"):
        assert name in str(caught.value), name


def test_equal_faults_of_many_clips_are_one_line(tmp_path: Path) -> None:
    given = with_emotions(tmp_path, *["anger"] * 3, *["calm"] * 30, *["bored"] * 2)
    for more in ([], ["--skip-bad"]):
        output, _ = said(given, tmp_path / "out", "--labels", "anger,joy", *more)
        lines = [line for line in output.splitlines() if "unknown label" in line]
        (many,) = [line for line in lines if "'calm'" in line]
        assert many.endswith(": 30 clips, such as calls/audio/3, calls/audio/4, calls/audio/5")
        # A few are listed one by one, each with its clip.
        assert sum("'bored'" in line for line in lines) == 2 and len(lines) == 3


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (["train", "train"], ["no dev and no test clips", "last weights", "without a score", "--folds"]),
        (["train", "test"], ["no dev clips", "last weights"]),
        (["train", "dev"], ["no test clips", "without a score"]),
        (["train", "dev", "test"], []),
    ],
)
def test_splits_without_clips_are_noted(tmp_path: Path, splits: list[str], words: list[str]) -> None:
    given = table(tmp_path, [{"split": split, "speaker": split} for split in splits])
    prepared = prepare("table", given, tmp_path / "out")
    notes = [note for note in prepared.notes if note.startswith("no ")]
    assert len(notes) == bool(words) and all(word in notes[0] for word in words)
    assert not words or notes[0] in said(given, tmp_path / "again")[0]


def test_folds_need_no_dev_and_test_clips(tmp_path: Path) -> None:
    given = table(tmp_path, [{"speaker": name} for name in "abc"])
    assert not [note for note in prepare("table", given, tmp_path / "o", folds=3).notes if "dev" in note]


def test_a_second_preparation_tells_whether_anything_changed(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"split": split, "speaker": f"{split}"} for split in SPLITS]
    given, out = table(tmp_path, rows), tmp_path / "out"
    last = [said(given, out)[0].splitlines()[-1] for _ in range(2)]
    assert last[0].endswith(f"prepared in {out}")
    assert last[1].endswith(f"prepared in {out} already, and nothing has changed")
    rows[0]["note"] = "x"
    table(tmp_path, rows)
    assert "again, with the same clips and labels" in said(given, out)[0].splitlines()[-1]
    rows[0]["text"] = "new words"
    table(tmp_path, rows)
    assert "anew: another corpus lay there" in said(given, out)[0].splitlines()[-1]


def test_ids_hold_no_path_of_this_machine(tmp_path: Path) -> None:
    below = [{"path": str(tmp_path / "audio" / name)} for name in ("a/1.wav", "b/1.wav")]
    ids = {clip.id for clip in own_table.read(table(tmp_path, below))}
    assert ids == {"calls/audio/a/1", "calls/audio/b/1"}
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    shutil.move(tmp_path / "calls.jsonl", elsewhere / "calls.jsonl")
    assert {clip.id for clip in own_table.read(elsewhere / "calls.jsonl")} == {"calls/a/1", "calls/b/1"}
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "audio")
    rows = [{"path": str(link / "a/1.wav"), "start": 0, "end": 1}, {"path": "../audio/b/1.wav"}]
    (elsewhere / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [clip.id for clip in own_table.read(elsewhere / "calls.jsonl")]
    assert found == ["calls/1-0000000-0001000", "calls/audio/b/1"]


def test_absolute_and_relative_paths_give_one_fingerprint(tmp_path: Path) -> None:
    relative = [{"split": split, "speaker": split, "emotion": "joy"} for split in SPLITS]
    one = prepare("table", table(tmp_path, relative), tmp_path / "one").fingerprint
    absolute = [row | {"path": str(tmp_path / row["path"])} for row in relative]
    again = prepare("table", table(tmp_path, absolute), tmp_path / "two").fingerprint
    assert again == one == PreparedCorpus.load(tmp_path / "one").fingerprint


def test_the_fingerprint_of_a_corpus_is_what_it_was(tmp_path: Path) -> None:
    rows = [
        {"split": split, "speaker": f"s{number // 2}-{split}", "emotion": "joy", "text": "hello"}
        for number, split in enumerate(SPLITS)
    ]
    prepared = prepare("table", table(tmp_path, rows), tmp_path / "out")
    assert prepared.fingerprint == FINGERPRINT


#: Of the corpus above, by the version before ids of absolute paths became relative.
FINGERPRINT = "4168baca15ffee7cd2c63f8909e2ce38ccce1eedf936eb65219f58536e94d126"
