import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from voxstrata.corpora import an4, librispeech, own_table, ravdess, tess
from voxstrata.corpora.readers import READERS
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.errors import CorpusError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(500, 0.1), 16_000)
    return path


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_a_normal_transcript_stays_as_it_is(text: str) -> None:
    once = normalize_transcript(text)
    assert once is None or normalize_transcript(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mother-in-law's  Tea.\n", "mother in law's tea"),
        ("ÉTÉ à 5 h", "été à 5 h"),
        ("' - '", None),
        ("हिन्दी", "हिन्दी"),
    ],
)
def test_transcripts_have_one_spelling(text: str, expected: str | None) -> None:
    assert normalize_transcript(text) == expected


@pytest.mark.parametrize("nesting", ["", "Audio_Speech_Actors_01-24"])
def test_ravdess_names_are_read(tmp_path: Path, nesting: str) -> None:
    touch(tmp_path / nesting / "Actor_18" / "03-01-05-02-02-01-18.wav")
    touch(tmp_path / nesting / "Actor_18" / "03-02-05-02-02-01-18.wav")  # song
    (tmp_path / nesting / "Actor_18" / "._03-01-05-02-02-01-18.wav").write_bytes(b"resource fork")
    (clip,) = ravdess.read(tmp_path)
    assert (clip.id, clip.speaker, clip.split) == ("ravdess/03-01-05-02-02-01-18", "ravdess-18", "dev")
    assert (clip.emotion, clip.text) == ("anger", "dogs are sitting by the door")
    assert clip.extras == {"intensity": "strong", "repetition": "01", "gender": "female"}


def test_ravdess_keeps_an_unknown_emotion_to_be_found(tmp_path: Path) -> None:
    touch(tmp_path / "Actor_01" / "03-01-09-01-01-01-01.wav")
    assert ravdess.read(tmp_path)[0].emotion == "09"


def test_ravdess_names_every_strange_file(tmp_path: Path) -> None:
    for name in ("hello.wav", "03-01-01-01-01-01-25.wav"):
        touch(tmp_path / "Actor_01" / name)
    with pytest.raises(CorpusError, match=r"2 recordings .*03-01-01-01-01-01-25.wav.*hello.wav"):
        ravdess.read(tmp_path)


def test_tess_takes_the_emotion_from_the_name_not_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "YAF_pleasant_surprised" / "YAF_shawl_ps.wav")
    touch(tmp_path / "OAF_neutral" / "OA_bite_neutral.wav")
    oaf, yaf = tess.read(tmp_path)
    assert (yaf.id, yaf.speaker, yaf.split) == ("tess/YAF_shawl_ps", "tess-YAF", "test")
    assert (yaf.emotion, yaf.text) == ("surprise", "say the word shawl")
    assert (oaf.speaker, oaf.split, oaf.emotion) == ("tess-OAF", "train", "neutral")


@pytest.mark.parametrize(
    ("split", "test"),
    [
        ("speaker", {"YAF_shawl_sad", "YAF_dog_sad"}),
        ("both", {"YAF_dog_sad"}),
    ],
)
def test_tess_is_divided_by_speakers_or_by_words_too(tmp_path: Path, split: str, test: set[str]) -> None:
    names = {"OAF_shawl_sad", "OAF_dog_sad", "YAF_shawl_sad", "YAF_dog_sad"}
    for name in names:
        touch(tmp_path / "TESS" / f"{name}.wav")
    splits = {clip.id.removeprefix("tess/"): clip.split for clip in tess.read(tmp_path, split=split)}
    assert {name for name, found in splits.items() if found == "test"} == test
    train = {"OAF_shawl_sad"} if split == "both" else names - test
    assert {name for name, found in splits.items() if found == "train"} == train


@pytest.mark.parametrize("names", [("OAF_dog_sad", "YAF_shawl_sad"), ("YAF_bite_sad",)])
def test_tess_tells_that_a_division_leaves_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        touch(tmp_path / f"{name}.wav")
    found = rf"split=both leaves out all {len(names)} TESS recordings in .*such as {names[0]}\.wav: it needs "
    with pytest.raises(CorpusError, match=found + "words that are trained on from OAF.*take split=speaker"):
        tess.read(tmp_path, split="both")
    assert len(tess.read(tmp_path)) == len(names)


def test_tess_tells_that_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no TESS recordings in"):
        tess.read(tmp_path, split="both")


def an4_tree(folder: Path, suffix: str) -> None:
    for part, place, line in (
        ("train", "an4_clstk/fash/an251-fash-b", "<s> YES </s> (an251-fash-b)"),
        ("test", "an4test_clstk/fcaw/an406-fcaw-b", "RUBOUT G M (an406-fcaw-b)"),
    ):
        path = folder / "wav" / f"{place}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\1" * 500)
        (folder / "etc").mkdir(exist_ok=True)
        (folder / "etc" / f"an4_{part}.fileids").write_text(place + "\n")
        (folder / "etc" / f"an4_{part}.transcription").write_text(line + "\n")


@pytest.mark.parametrize("suffix", [".raw", ".sph", ".wav", ".flac"])
def test_an4_lists_are_read_whatever_the_format(tmp_path: Path, suffix: str) -> None:
    an4_tree(tmp_path, suffix)
    dev, test = an4.read(tmp_path)
    assert (dev.id, dev.speaker, dev.split, dev.text) == ("an4/an251-fash-b", "an4-fash", "dev", "yes")
    assert (test.split, test.text, test.path.suffix) == ("test", "rubout g m", suffix)


def test_an4_without_a_transcript_for_a_file_is_an_error(tmp_path: Path) -> None:
    an4_tree(tmp_path, ".wav")
    (tmp_path / "etc" / "an4_test.transcription").write_text("RUBOUT (another)\n")
    with pytest.raises(CorpusError, match="an406-fcaw-b"):
        an4.read(tmp_path)


def test_dev_speakers_do_not_depend_on_order() -> None:
    speakers = [f"s{i}" for i in range(50)]
    assert an4.dev_speakers(speakers) == an4.dev_speakers(speakers[::-1] * 2)
    assert len(an4.dev_speakers(speakers)) == 5


def librispeech_tree(folder: Path) -> Path:
    for subset, speaker in (("train-clean-100", "19"), ("dev-other", "116"), ("test-other", "367")):
        chapter = folder / subset / speaker / "1"
        touch(chapter / f"{speaker}-1-0000.flac")
        (chapter / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0000 IT'S SO\n")
    return folder


@pytest.mark.parametrize("root", [".", "LibriSpeech"])
def test_librispeech_folders_are_splits(tmp_path: Path, root: str) -> None:
    librispeech_tree(tmp_path / root)
    clips = {clip.split: clip for clip in librispeech.read(tmp_path)}
    assert set(clips) == {"train", "dev", "test"}
    assert clips["train"].id == "librispeech/19-1-0000" and clips["train"].speaker == "librispeech-19"
    assert clips["train"].text == "it's so" and clips["train"].extras["subset"] == "train-clean-100"


def test_one_librispeech_subset_may_be_read(tmp_path: Path) -> None:
    (clip,) = librispeech.read(librispeech_tree(tmp_path) / "dev-other")
    assert clip.split == "dev"


def test_a_librispeech_line_without_recording_is_given_back(tmp_path: Path) -> None:
    text = librispeech_tree(tmp_path) / "test-other" / "367" / "1" / "367-1.trans.txt"
    text.write_text(text.read_text() + "367-1-0001 GONE\n")
    missing = librispeech.read(tmp_path)[-1]
    assert missing.id == "librispeech/367-1-0001" and not missing.path.exists()


def test_a_librispeech_recording_without_line_is_an_error(tmp_path: Path) -> None:
    touch(librispeech_tree(tmp_path) / "test-other" / "367" / "1" / "367-1-0009.flac")
    with pytest.raises(CorpusError, match=r"367-1-0009\.flac"):
        librispeech.read(tmp_path)


@pytest.mark.parametrize("name", ["an4_test.fileids", "an4_train.transcription"])
def test_an4_lists_in_another_encoding_are_named(tmp_path: Path, name: str) -> None:
    an4_tree(tmp_path, ".wav")
    path = tmp_path / "etc" / name
    path.write_bytes(path.read_bytes() + b"CAF\xc9 (x)\n")
    with pytest.raises(CorpusError, match=rf"{name}, line 2: not UTF-8 \(byte 0xc9"):
        an4.read(tmp_path)


def test_librispeech_words_in_another_encoding_are_named(tmp_path: Path) -> None:
    text = librispeech_tree(tmp_path) / "test-other" / "367" / "1" / "367-1.trans.txt"
    text.write_bytes(b"367-1-0000 CAF\xc9\n")
    with pytest.raises(CorpusError, match=r"367-1\.trans\.txt, line 1: not UTF-8"):
        librispeech.read(tmp_path)


def test_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"path": "a/1.wav", "emotion": "joy", "text": "Hi, you!", "speaker": "ann", "split": "Validation"},
        {"path": "a/2.wav", "emotion": "anger", "text": "", "speaker": "bob", "split": "train"},
    ]
    with (tmp_path / "calls.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "votes:joy", "votes:anger", "room"])
        writer.writeheader()
        writer.writerows(
            {**row, "votes:joy": 2 - i, "votes:anger": i, "room": "7"} for i, row in enumerate(rows)
        )
    lines = [
        json.dumps({**row, "votes": {"joy": 2 - i, "anger": i}, "room": "7"}) for i, row in enumerate(rows)
    ]
    (tmp_path / "jsonl").mkdir()
    (tmp_path / "jsonl" / "calls.jsonl").write_text("\n".join(lines).replace("a/", "../a/"))
    clips = own_table.read(tmp_path / "calls.csv")
    assert clips[0].id == "calls/a/1" and clips[0].speaker == "calls-ann" and clips[0].split == "dev"
    assert clips[0].text == "hi you" and clips[1].text is None and clips[0].votes == {"joy": 2.0}
    assert clips[0].path == tmp_path / "a" / "1.wav" and clips[0].extras == {"room": "7"}
    for one, other in zip(clips, own_table.read(tmp_path / "jsonl"), strict=True):
        assert (one.emotion, one.votes, one.text, one.speaker, one.split) == (
            other.emotion,
            other.votes,
            other.text,
            other.speaker,
            other.split,
        )
        assert one.path == other.path.resolve()


def test_ids_and_speakers_get_the_prefix_once(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"path": "1.wav", "id": "x/one", "speaker": "x-a"}\n{"path": "2.wav", "id": 2}\n'
    )
    first, second = own_table.read(tmp_path / "x.jsonl")
    assert (first.id, first.speaker) == ("x/one", "x-a")
    assert (second.id, second.speaker, second.split) == ("x/2", None, "train")


def test_a_row_without_the_split_that_others_have_keeps_none(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,split\n1.wav,train\n2.wav,\n3.wav,holdout\n")
    assert [clip.split for clip in own_table.read(tmp_path)] == ["train", "", "holdout"]


def test_every_bad_line_of_a_table_is_named(tmp_path: Path) -> None:
    lines = ["{", "[1]", '{"emotion": "joy"}', '{"path": "1.wav"}', '{"path": "a", "votes": {"joy": -1}}']
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, '{"path": "a", "votes": "many"}', '{"path": [1]}']))
    with pytest.raises(CorpusError) as caught:
        own_table.read(tmp_path / "x.jsonl")
    message = str(caught.value)
    assert all(f"line {number}: " in message for number in (1, 2, 3, 5, 6, 7)) and "line 4" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,emotion\na.wav,joy\n", "line 1: a column 'path' is needed; found file, emotion"),
        ("path,path\n", "stands twice"),
        ('path,text\n"a\nb.wav",hi\nc.wav\n', "line 4: 1 fields where the header has 2"),
        ("path,text\n", "holds no rows"),
        ("", "a column 'path' is needed; found nothing"),
        ("path,text,transcript\na.wav,hi,ho\n", "line 2: two columns give the text"),
    ],
)
def test_bad_csv_is_named_by_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        own_table.read(tmp_path / "x.csv")


def test_a_table_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("path,text\na.wav,été\n".encode("latin-1"))
    with pytest.raises(CorpusError, match="UTF-8"):
        own_table.read(tmp_path / "x.csv")


def test_two_tables_in_a_folder_are_not_guessed_between(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path\n")
    (tmp_path / "y.jsonl").write_text("")
    with pytest.raises(CorpusError, match=r"found x\.csv, y\.jsonl"):
        own_table.read(tmp_path)


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_wrong_folder_is_an_error_that_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match=str(tmp_path)):
        READERS[name].read(tmp_path)
    with pytest.raises(CorpusError, match="nowhere"):
        READERS[name].read(tmp_path / "nowhere")
