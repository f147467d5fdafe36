"""IEMOCAP on a small tree in the layout of its release."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxstrata.corpora import iemocap
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import CorpusError, LabelError


def wav(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(size=800) * 0.1, 16_000)


def session(root: Path, number: int, emotions: dict[str, str]) -> Path:
    """One session with one dialog; `emotions` maps the ends of the turns' names to labels."""
    folder = root / f"Session{number}"
    dialog = f"Ses0{number}F_impro01"
    labels, texts = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
    for seed, (turn, label) in enumerate(emotions.items()):
        wav(folder / "sentences" / "wav" / dialog / f"{dialog}_{turn}.wav", 100 * number + seed)
        labels += [
            f"[6.2901 - 8.2357]\t{dialog}_{turn}\t{label}\t[2.5000, 3.0000, 1.5000]",
            "C-E2:\tNeutral;\t()",
            "C-E3:\tFrustration; Anger;\t()",
            "C-E4:\tOther;\t(tired)",
            "C-F1:\tSadness;\t()",
            "A-E3:\tval 3; act 2; dom  2;\t()",
            "",
        ]
        texts.append(f"{dialog}_{turn} [006.2901-008.2357]: Excuse me, caf\xe9. [LAUGHTER]")
    for name, lines in (("EmoEvaluation", labels), ("transcriptions", texts)):
        path = folder / "dialog" / name / f"{dialog}.txt"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "IEMOCAP_full_release"
    for number in range(1, 6):
        session(root, number, {"F000": "neu", "F001": "exc", "M000": "hap", "M001": "xxx", "M002": "fru"})
    return root


def test_a_turn_has_all_that_the_release_tells(release: Path) -> None:
    clip = iemocap.read(release)[0]
    assert (clip.id, clip.speaker, clip.split) == ("iemocap/Ses01F_impro01_F000", "iemocap-Ses01F", "train")
    assert (clip.emotion, clip.text) == ("neutral", "excuse me café")
    # Of two named emotions both count; the actors' own answers (C-F1) do not.
    assert clip.votes == {"anger": 1.0, "frustration": 1.0, "neutral": 1.0, "other": 1.0}
    assert clip.extras == {
        "valence": "2.5000", "arousal": "3.0000", "dominance": "1.5000", "consensus": "neu",
        "style": "improvised", "gender": "female",
    }  # fmt: skip


def test_the_speaker_is_named_by_the_end_of_a_turn_not_by_its_dialog(release: Path) -> None:
    clips = {clip.id: clip for clip in iemocap.read(release.parent)}
    assert clips["iemocap/Ses03F_impro01_M000"].speaker == "iemocap-Ses03M"
    assert Counter(clip.split for clip in clips.values()) == {"train": 15, "dev": 5, "test": 5}
    assert len({clip.speaker for clip in clips.values()}) == 10


def test_no_agreement_is_no_emotion_and_counted(release: Path) -> None:
    notes: list[str] = []
    clips = iemocap.read(release, note=notes.append)
    assert [clip.emotion for clip in clips[:5]] == ["neutral", "excitement", "happiness", None, "frustration"]
    assert "without an emotion: no agreement (xxx) 5" in notes


def test_resource_forks_and_turns_of_the_other_actor_are_no_clips(release: Path) -> None:
    one = release / "Session1"
    for folder, suffix in (("sentences/wav/Ses01F_impro01", "wav"), ("dialog/EmoEvaluation", "txt")):
        (one / folder / f"._Ses01F_impro01.{suffix}").write_bytes(b"\0fork\xff")
    wav(one / "sentences/wav/Ses01F_impro01/Ses01F_impro01_MXX0.wav", 7)
    with (one / "dialog/transcriptions/Ses01F_impro01.txt").open("a") as file:
        file.write("Ses01F_impro01_MXX0 [008.0-009.0]: Yeah.\nM: (to the director)\n")
    (one / "dialog/EmoEvaluation/Categorical").mkdir()
    (one / "dialog/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt").write_text("[not a turn\n")
    notes: list[str] = []
    assert len(iemocap.read(release, note=notes.append)) == 25
    assert any(note.startswith("1 recordings of *_FXX") for note in notes)
    assert any(note.startswith("1 lines of transcriptions") for note in notes)


def test_a_recording_without_labels_carries_none_and_labels_without_recording_are_found(
    release: Path, tmp_path: Path
) -> None:
    wav(release / "Session2/sentences/wav/Ses02M_script01_1/Ses02M_script01_1_F005.wav", 9)
    notes: list[str] = []
    clips = {clip.id: clip for clip in iemocap.read(release, note=notes.append)}
    clip = clips["iemocap/Ses02M_script01_1_F005"]
    assert (clip.emotion, clip.votes, clip.extras["style"]) == (None, {}, "scripted")
    assert any(note.startswith("1 recordings stand in no file of EmoEvaluation") for note in notes)
    (release / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_F000.wav").unlink()
    with pytest.raises(CorpusError, match="1 missing file"):
        prepare("iemocap", release, tmp_path / "out")


def test_a_line_that_is_almost_a_turn_is_an_error(release: Path) -> None:
    path = release / "Session4/dialog/EmoEvaluation/Ses04F_impro01.txt"
    path.write_text(path.read_text().replace("[2.5000, 3.0000, 1.5000]", "[2.5000, 3.0000]", 1))
    with pytest.raises(CorpusError, match=r"Ses04F_impro01\.txt, line 3: expected"):
        iemocap.read(release)


@pytest.mark.parametrize("name", ["EmoEvaluation", "transcriptions"])
def test_any_bytes_can_be_read_as_text(release: Path, name: str) -> None:
    path = release / "Session4" / "dialog" / name / "Ses04F_impro01.txt"
    path.write_bytes(path.read_bytes() + b"\n% \xff\xfe\x00\xc3 a note\n")
    assert len(iemocap.read(release)) == 25


def test_an_unknown_label_is_a_fault_and_an_unknown_answer_is_other(release: Path, tmp_path: Path) -> None:
    path = release / "Session4/dialog/EmoEvaluation/Ses04F_impro01.txt"
    text = path.read_text()
    path.write_text(text.replace("C-E2:\tNeutral", "C-E2:\tBored", 1))
    notes: list[str] = []
    clips = {clip.id: clip for clip in iemocap.read(release, note=notes.append)}
    assert clips["iemocap/Ses04F_impro01_F000"].votes["other"] == 2.0
    assert any(note.startswith("1 answers of annotators") for note in notes)
    path.write_text(text.replace("\tneu\t", "\tbor\t", 1))
    with pytest.raises(CorpusError, match="1 unknown label"):
        prepare("iemocap", release, tmp_path / "out")


def test_a_fold_tests_a_session(release: Path, tmp_path: Path) -> None:
    prepared = prepare("iemocap", release, tmp_path / "out")
    for fold in range(1, 6):
        speakers = {cut.supervisions[0].speaker for cut in prepared.cuts("test", fold)}
        assert speakers == {f"iemocap-Ses0{fold}F", f"iemocap-Ses0{fold}M"}
        assert len(prepared.cuts("train", fold)) == 15 and len(prepared.cuts("dev", fold)) == 5


def test_the_usual_four_classes_take_two_maps(release: Path, tmp_path: Path) -> None:
    prepared = prepare("iemocap", release, tmp_path / "out", maps=["excited-to-happy", "four-classes"])
    assert prepared.labels == ("anger", "happiness", "neutral", "sadness")
    assert {name: sum(by.values()) for name, by in prepared.summary.emotions.items()} == {
        "anger": 0, "happiness": 10, "neutral": 5, "sadness": 0, "-": 10,
    }  # fmt: skip
    assert any("excitement -> happiness (5 clips" in note for note in prepared.notes)
    with pytest.raises(LabelError, match="no label map 'exc'; there are calm-to-neutral, excited-to-happy"):
        prepare("iemocap", release, tmp_path / "out", maps=["exc"])


def test_left_out_folds_are_used_nowhere(release: Path, tmp_path: Path) -> None:
    prepared = prepare("iemocap", release, tmp_path / "out")
    parts = {
        split: {cut.supervisions[0].speaker[-2] for cut in prepared.cuts(split, 5, without_folds=(1,))}
        for split in ("train", "dev", "test")
    }
    assert parts == {"test": {"5"}, "dev": {"2"}, "train": {"3", "4"}}
    with pytest.raises(CorpusError, match="fold 1 of iemocap is to be tested on and left out"):
        prepared.cuts("test", 1, without_folds=(1, 2))
    with pytest.raises(CorpusError, match="no fold 6; there are 1 to 5"):
        prepared.cuts("test", 1, without_folds=(6,))
