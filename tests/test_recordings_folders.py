"""What a folder of recordings holds, for readers and for `predict`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxstrata.audio import AUDIO_SUFFIXES, folder_content
from voxstrata.cli.predict_input import recordings
from voxstrata.corpora.files import audio_files
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.readers import READERS
from voxstrata.errors import AudioError, CorpusError


def voice(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(size=4000) * 0.1
    soundfile.write(path, samples, 16_000, format="WAV")
    return path


def names(paths, root: Path) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in paths]


def test_all_that_can_be_read_is_found_by_its_suffix(tmp_path: Path) -> None:
    for shape, suffixes in (
        ("CAF", [".caf"]), ("W64", [".w64"]), ("RF64", [".rf64"]), ("AIFF", [".aif", ".aifc", ".aiff"]),
        ("AU", [".au", ".snd"]), ("NIST", [".sph", ".nist"]), ("WAV", [".wav", ".WAV", ".wave", ".bwf"]),
        ("OGG", [".ogg", ".oga", ".opus"]), ("MP3", [".mp3"]), ("FLAC", [".flac"]), ("VOC", [".voc"]),
    ):  # fmt: skip
        for suffix in suffixes:
            path = tmp_path / f"{shape}{suffix}"
            soundfile.write(path, np.random.default_rng(0).normal(size=4000) * 0.1, 16_000, format=shape)
    found = recordings(tmp_path)
    assert sorted(found) == sorted(tmp_path.iterdir()) == sorted(audio_files(tmp_path))
    assert {".m4a", ".webm", ".amr", ".3gp", ".wma", ".mp4", ".raw"} <= AUDIO_SUFFIXES


def test_hidden_files_and_the_checkpoints_of_notebooks_are_passed_over_and_counted(
    tmp_path: Path, capsys
) -> None:
    root = tmp_path / ".cache"  # the folder that is asked for may be called anything
    voice(root / "a.wav")
    for name in ("._a.wav", ".ipynb_checkpoints/a-checkpoint.wav", ".git/deep/b.wav", "__MACOSX/a.wav"):
        voice(root / name)
    for name in ("notes.txt", "more.txt", "labels.csv"):
        (root / name).write_text("x")
    assert names(recordings(root), root) == ["a.wav"]
    said = capsys.readouterr().err
    assert "3 other files (.txt 2, .csv 1)" in said and "4 hidden recordings" in said


def test_a_folder_without_recordings_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(AudioError, match=r"holds no recordings.*1 other files \(\.txt 1\)"):
        recordings(tmp_path)


def test_links_are_followed_once_and_loops_end(tmp_path: Path, capsys) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    voice(root / "z" / "real.wav", 0)
    voice(outside / "b.wav", 1)
    voice(tmp_path / "blob", 2)
    (root / "a.wav").symlink_to(root / "z" / "real.wav")
    (root / "loop").symlink_to(root)
    (root / "z" / "up").symlink_to(root / "z")
    (root / "first").symlink_to(outside)
    (root / "second").symlink_to(outside)
    (root / "named.wav").symlink_to(tmp_path / "blob")
    (root / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (root / "self.wav").symlink_to(root / "self.wav")
    assert names(recordings(root), root) == [
        "first/b.wav", "gone.wav", "named.wav", "self.wav", "z/real.wav"
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "4 links to what is there already" in said
    content = folder_content(root)
    assert names(content.leading_back, root) == ["a.wav", "loop", "second", "z/up"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch) -> None:
    voice(tmp_path / "a.wav")
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    # The tests may run as root, whom no permission stops.
    monkeypatch.setattr(os, "scandir", refuse)
    assert names(recordings(tmp_path), tmp_path) == ["a.wav", "locked"]
    with pytest.raises(CorpusError, match=r"cannot look into .*locked: Permission denied"):
        list(audio_files(tmp_path))


def test_readers_say_which_recordings_are_in_no_clip(tmp_path: Path) -> None:
    actor = tmp_path / "Actor_01"
    voice(actor / "03-01-05-01-01-01-01.wav", 0)
    voice(actor / "03-02-05-01-01-01-01.wav", 1)  # song
    voice(actor / ".ipynb_checkpoints" / "03-01-05-01-01-01-01-checkpoint.wav", 2)
    (actor / "again").symlink_to(actor)
    told: list[str] = []
    clips = READERS["ravdess"].clips(tmp_path, {}, told.append)
    assert [clip.path.name for clip in clips] == ["03-01-05-01-01-01-01.wav"]
    (note,) = told
    assert "1 recordings that no clip is of" in note and "03-02-05" in note
    assert "1 hidden recordings" in note and "1 links to what is there already" in note
    assert note in prepare("ravdess", tmp_path, tmp_path / "out").notes
