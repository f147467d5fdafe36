"""Emilia on small trees in each of its layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxstrata.corpora import emilia
from voxstrata.corpora.prepare import prepare
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


def test_tar_files_must_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "EN").mkdir()
    (tmp_path / "EN" / "EN-B000000.tar").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"1 tar files in .* nothing unpacked"):
        emilia.read(tmp_path)
    webdataset_layout(tmp_path)
    notes: list[str] = []
    assert len(emilia.read(tmp_path, note=notes.append)) == 1
    assert notes == ["1 tar files are not read; what was unpacked is"]


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
    assert prepared.notes == ("pseudo-labels: 1 of 1 clips have one",)


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
        ("{", "line 1: not JSON"),
        ('{"id": "a"}', 'line 1: expected an object with "id" and "wav"'),
        ('{"wav": "a.mp3"}', 'line 1: needs "id"; found wav'),
        ('{"id": "a", "wav": "a.mp3", "text": 3}', '"text" must be a string; found 3'),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "EN.jsonl").write_text(line)
    with pytest.raises(CorpusError, match=message):
        emilia.read(tmp_path)


def test_a_row_without_recording_is_a_missing_file(tmp_path: Path) -> None:
    many(tmp_path, 1)
    with pytest.raises(CorpusError, match="1 missing file"):
        prepare("emilia", tmp_path, tmp_path / "out")
