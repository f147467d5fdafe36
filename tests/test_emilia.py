"""Emilia on small trees in each of its layouts."""

import errno
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.corpora import emilia
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError
from voxstrata.predictions import Prediction, write_predictions

ID = "EN_B00000_S00000_W000000"
ROW = {
    "id": ID,
    "text": " You can help- No.",
    "duration": 1.0,
    "speaker": "EN_B00000_S00000",
    "language": "en",
    "dnsmos": 3.29,
}


def mp3(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(size=24_000) * 0.1, 24_000, format="MP3")
    return path


def jsonl_layout(root: Path) -> Path:
    place = "EN_B00000/EN_B00000_S00000/mp3/EN_B00000_S00000_W000000.mp3"
    audio = mp3(root / "EN" / place)
    (root / "EN" / "EN_B00000.jsonl").write_text(json.dumps({**ROW, "wav": place}) + "\n")
    return audio


def webdataset_layout(root: Path) -> Path:
    audio = mp3(root / "EN" / "EN-B000000" / f"{ID}.mp3")
    audio.with_suffix(".json").write_text(json.dumps({**ROW, "wav": "elsewhere.mp3"}))
    return audio


@pytest.mark.parametrize("layout", [jsonl_layout, webdataset_layout])
def test_both_releases_say_the_same(tmp_path: Path, layout) -> None:
    audio = layout(tmp_path)
    (audio.parent / "._resource.json").write_bytes(b"\0fork")
    (clip,) = emilia.read(tmp_path)
    assert (clip.id, clip.path, clip.split) == (f"emilia/{ID}", audio, "train")
    assert (clip.speaker, clip.text, clip.emotion) == ("emilia-EN_B00000_S00000", "you can help no", None)
    assert clip.extras == {"language": "en", "dnsmos": "3.29"}


def test_yodas_spells_its_id_otherwise(tmp_path: Path) -> None:
    audio = mp3(tmp_path / "DE" / "key.mp3")
    audio.with_suffix(".json").write_text(
        json.dumps({"_id": "DE_W1", "text": "ja", "speaker": "DE_x", "language": "de"})
    )
    (clip,) = emilia.read(tmp_path)
    assert (clip.id, clip.speaker) == ("emilia/DE_W1", "emilia-DE_x")


@pytest.mark.parametrize("pattern", ["show_{}", "show_{:06d}"])
def test_one_list_for_a_recording_has_speakers_of_its_own(tmp_path: Path, pattern: str) -> None:
    for i in range(2):
        mp3(tmp_path / "show" / f"{pattern.format(i)}.mp3", i)
    rows = [{"text": f"take {i}", "speaker": "SPEAKER_00", "language": "en"} for i in range(2)]
    (tmp_path / "show" / "show.json").write_text(json.dumps(rows))
    clips = emilia.read(tmp_path)
    assert [clip.path.stem for clip in clips] == [pattern.format(0), pattern.format(1)]
    assert [clip.text for clip in clips] == ["take 0", "take 1"]
    # SPEAKER_00 of another recording is another person.
    assert {clip.speaker for clip in clips} == {"emilia-show-SPEAKER_00"}


def tarred(root: Path, name: str = "EN-B000000.tar", mode: str = "w") -> Path:
    """The release as it is shipped: the clip and its JSON, at the top of a tar file."""
    audio = webdataset_layout(root)
    with tarfile.open(root / "EN" / name, mode) as tar:
        for path in (audio.with_suffix(".json"), audio):
            tar.add(path, arcname=path.name)
    shutil.rmtree(audio.parent)
    return root / "EN" / name


def names(root: Path) -> list[str]:
    """All that is below a folder."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def refused(root: Path, message: str) -> None:
    """Unpacking is refused in one line, and the folder is as it was."""
    before = names(root)
    with pytest.raises(CorpusError, match=message) as caught:
        emilia.read(root, unpack="yes")
    assert "\n" not in str(caught.value) and names(root) == before


def test_tar_files_must_be_unpacked(tmp_path: Path) -> None:
    tarred(tmp_path)
    with pytest.raises(CorpusError, match=r"1 tar files in .* nothing unpacked; --option unpack=yes unpacks"):
        emilia.read(tmp_path)
    many(tmp_path, 1)
    notes: list[str] = []
    assert len(emilia.read(tmp_path, note=notes.append)) == 1
    assert notes == ["1 tar files are not read; what was unpacked is (the option unpack=yes unpacks them)"]


@pytest.mark.parametrize(("name", "mode"), [("EN-B000000.tar", "w"), ("EN-B000000.tar.gz", "w:gz")])
def test_the_command_unpacks_tar_files_once(tmp_path: Path, name: str, mode: str) -> None:
    tar = tarred(tmp_path / "emilia", name, mode)
    command = ["corpus", "prepare", "emilia", str(tmp_path / "emilia"), str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--option", "unpack=yes"])
    assert done.exit_code == 0, done.output
    assert "unpacked 1 of 1 tar files; the others were unpacked before" in done.stdout
    inside = [f"EN/EN-B000000/{ID}.{ending}" for ending in ("json", "mp3")]
    assert names(tmp_path / "emilia") == sorted(["EN", f"EN/{tar.name}", "EN/EN-B000000", *inside])
    (cut,) = PreparedCorpus.load(tmp_path / "out").cuts("train")
    assert cut.supervisions[0].text == "you can help no" and cut.num_samples == 16_000
    # A second time nothing is unpacked: what was changed since stays so.
    row = tmp_path / "emilia" / "EN" / "EN-B000000" / f"{ID}.json"
    row.write_text(row.read_text().replace("You", "They"))
    notes: list[str] = []
    (clip,) = emilia.read(tmp_path / "emilia", unpack="yes", note=notes.append)
    assert clip.text == "they can help no"
    assert notes == ["unpacked 0 of 1 tar files; the others were unpacked before"]
    # Nor does a tar file that was unpacked wait for that.
    assert emilia.read(tmp_path / "emilia", note=notes.append) and len(notes) == 1


def test_a_folder_inside_a_tar_file_is_that_beside_it(tmp_path: Path) -> None:
    audio = jsonl_layout(tmp_path)
    with tarfile.open(tmp_path / "EN" / "EN_B00000.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "EN" / "EN_B00000", arcname="EN_B00000")
    shutil.rmtree(tmp_path / "EN" / "EN_B00000")
    (clip,) = emilia.read(tmp_path, unpack="yes")
    assert clip.path == audio and audio.is_file()


def test_what_lies_unpacked_beside_its_tar_file_is_not_unpacked_again(tmp_path: Path) -> None:
    with tarfile.open(tarred(tmp_path)) as tar:
        tar.extractall(tmp_path / "EN", filter="data")
    before = names(tmp_path)
    assert len(emilia.read(tmp_path, unpack="yes")) == 1 and names(tmp_path) == before


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_file_that_was_cut_leaves_nothing(tmp_path: Path, mode: str) -> None:
    tar = tarred(tmp_path, "EN-B000000.tar" if mode == "w" else "EN-B000000.tar.gz", mode)
    whole = tar.read_bytes()
    # In the middle of a clip, of a header, and (after two entries: header and content) between two of them.
    with tarfile.open(tar) as opened:
        second = opened.getmembers()[1].offset
    cuts = (len(whole) // 2, 0) if mode == "w:gz" else (len(whole) // 2, second + 100, second, 100, 0)
    for cut in cuts:
        tar.write_bytes(whole[:cut])
        refused(tmp_path, r"EN-B000000\.tar.* cannot be unpacked: .*; fetch it again")
    if mode == "w":
        tar.write_bytes(whole[:second] + b"x" * 512 + whole[second + 512 :])
        refused(tmp_path, "it ends or is damaged after 1 entries; fetch it again")


def test_what_was_stopped_while_it_was_unpacked_is_not_read_and_goes_on(tmp_path: Path) -> None:
    tarred(tmp_path)
    half = tmp_path / "EN" / ".partial-EN-B000000"
    half.mkdir()
    (half / "old.json").write_text(json.dumps({**ROW, "id": "old"}))
    with pytest.raises(CorpusError, match="nothing unpacked"):
        emilia.read(tmp_path)
    (clip,) = emilia.read(tmp_path, unpack="yes")
    assert clip.id == f"emilia/{ID}" and not half.exists()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../outside.json", tarfile.REGTYPE, "outside the destination"),
        ("link.json", tarfile.SYMTYPE, "holds 'link.json', neither a file nor a folder"),
        ("pipe.json", tarfile.FIFOTYPE, "holds 'pipe.json', neither a file nor a folder"),
    ],
)
def test_a_tar_file_cannot_write_elsewhere(tmp_path: Path, name: str, kind: bytes, message: str) -> None:
    place = tarred(tmp_path)
    with tarfile.open(place, "a") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
        tar.addfile(entry)
    refused(tmp_path, message)


def test_no_room_and_no_right_to_write_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tarred(tmp_path)
    little = shutil._ntuple_diskusage(10**9, 10**9, tar.stat().st_size)
    extract = tarfile.TarFile.extractall

    def full(archive: tarfile.TarFile, *arguments: Any, **options: Any) -> None:
        extract(archive, *arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: little)
        refused(tmp_path, r"unpacking 1 tar files takes about 0\.0 GB .* has 0\.0 GB free; free space")
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", full)
        refused(tmp_path, r"cannot unpack .*EN-B000000: No space left on device; .* there is room")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        refused(tmp_path, r"cannot unpack .*EN-B000000: one may not write there; ")
    tar.with_suffix("").write_text("a file")
    refused(tmp_path, r"cannot unpack .*EN-B000000: a file has that name; ")


def many(root: Path, count: int) -> None:
    rows = [{"id": f"u{i}", "wav": f"{i}.mp3", "text": "a", "speaker": f"s{i // 2}"} for i in range(count)]
    lines = [json.dumps({**row, "language": ("en", "zh")[i % 2]}) for i, row in enumerate(rows)]
    (root / "EN.jsonl").write_text("\n".join(lines))


def test_a_language_is_chosen_and_the_others_counted(tmp_path: Path) -> None:
    many(tmp_path, 10)
    notes: list[str] = []
    assert len(emilia.read(tmp_path, language="zh", note=notes.append)) == 5
    assert notes == ["left out (other languages): en 5"]
    with pytest.raises(CorpusError, match=r"no clip in .* is in the language ko"):
        emilia.read(tmp_path, language="ko")


def test_dev_speakers_are_chosen_by_name_alone(tmp_path: Path) -> None:
    many(tmp_path, 2000)
    clips = emilia.read(tmp_path, dev="speakers")
    dev = {clip.speaker for clip in clips if clip.split == "dev"}
    assert 5 < len(dev) < 50
    assert dev.isdisjoint(clip.speaker for clip in clips if clip.split == "train")
    many(tmp_path, 1000)
    fewer = emilia.read(tmp_path, dev="speakers")
    assert {clip.speaker for clip in fewer if clip.split == "dev"} == dev & {clip.speaker for clip in fewer}
    assert {clip.split for clip in emilia.read(tmp_path)} == {"train"}


def test_pseudo_labels_lie_beside_the_audio(tmp_path: Path) -> None:
    jsonl_layout(tmp_path / "emilia")
    answer = Prediction(f"emilia/{ID}", emotion="anger", probabilities={"anger": 0.75, "neutral": 0.25})
    write_predictions(tmp_path / "emilia" / "pseudo-labels.jsonl", [answer])
    prepared = prepare("emilia", tmp_path / "emilia", tmp_path / "out")
    (cut,) = prepared.cuts("train")
    assert cut.supervisions[0].custom["emotion"] == "anger"
    assert cut.supervisions[0].custom["votes"] == {"anger": 0.75, "neutral": 0.25}
    assert cut.supervisions[0].custom["emotion_source"] == "pseudo-labels"
    assert cut.num_samples == 16_000 and prepared.labels == ("anger", "neutral")
    pseudo, splits = prepared.notes
    assert pseudo == "pseudo-labels: 1 of 1 clips have one" and splits.startswith("no dev and no test clips")


def test_pseudo_labels_as_csv_say_the_same(tmp_path: Path) -> None:
    many(tmp_path, 2)
    (tmp_path / "pseudo-labels.csv").write_text("id,emotion,votes:anger\nu1,anger,0.5\n")
    first, second = emilia.read(tmp_path)
    assert first.emotion is None and (second.emotion, second.votes) == ("anger", {"anger": 0.5})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,emotion\nu9,anger\n", "1 pseudo-labels are of clips that are not here, such as 'u9'"),
        ("id,emotion\nu1,anger\nu1,fear\n", "line 3: id 'u1' stands twice"),
        ("id,label\nu1,anger\n", "line 2: needs id and emotion; found id, label"),
        ("id,emotion,votes:anger\nu1,anger,much\n", "line 2: the share of 'anger' must be a number"),
    ],
)
def test_pseudo_labels_that_do_not_fit_are_refused(tmp_path: Path, content: str, message: str) -> None:
    many(tmp_path, 2)
    (tmp_path / "pseudo-labels.csv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        emilia.read(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ('{"id": "a"}', 'line 1: expected an object with "id" and "wav"'),
        ('{"wav": "a.mp3"}', 'line 1: needs "id"; found wav'),
        ('{"id": "a", "wav": "a.mp3", "text": 3}', '"text" must be a string; found 3'),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "EN.jsonl").write_text(line)
    with pytest.raises(CorpusError, match=message):
        emilia.read(tmp_path)


@pytest.mark.parametrize("name", ["EN.jsonl", "a.json"])
def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path, name: str) -> None:
    row = json.dumps({**ROW, "wav": "a.mp3", "text": "café"}, ensure_ascii=False)
    (tmp_path / name).write_bytes(f"\n{row}".encode("latin-1"))
    with pytest.raises(CorpusError, match=rf"{name}, line 2: not UTF-8 \(byte 0xe9, .*\); convert") as fault:
        emilia.read(tmp_path)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": ' + "1" * 5000 + "}"])
def test_json_beyond_what_is_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CorpusError, match=r"a\.json is not JSON: .*; unpack it again"):
        emilia.read(tmp_path)


def test_a_row_without_recording_is_a_missing_file(tmp_path: Path) -> None:
    many(tmp_path, 1)
    with pytest.raises(CorpusError, match="1 missing file"):
        prepare("emilia", tmp_path, tmp_path / "out")
