"""CREMA-D on a small tree in the layout of its repository."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.corpora import crema_d
from voxstrata.corpora.prepare import prepare
from voxstrata.errors import CorpusError

STUB = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
VOTES = """"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote"
"100001",0,0,0,6,3,1,"1001_IEO_HAP_LO",10,0.6,"H"
"100002",5,5,0,0,1,0,"1004_DFA_ANG_XX",11,0.45,"A:D"
"100003",0,0,0,0,9,0,"1005_ITH_SAD_X",9,1,"N"
"200001",0,0,0,0,10,0,"1001_IEO_HAP_LO",10,1,"N"
"300003",0,0,0,0,0,8,"1005_ITH_SAD_X",8,1,"S"
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "CREMA-D"
    (root / "AudioWAV").mkdir(parents=True)
    names = ("1001_IEO_HAP_LO", "1004_DFA_ANG_XX", "1005_ITH_SAD_X", "1091_WSI_NEU_XX")
    for seed, name in enumerate(names):
        noise = np.random.default_rng(seed).normal(size=800) * 0.1
        soundfile.write(root / "AudioWAV" / f"{name}.wav", noise, 16_000)
    (root / "processedResults").mkdir()
    (root / "processedResults" / "tabulatedVotes.csv").write_text(VOTES)
    return root


def test_names_and_votes_of_the_voice_alone_are_read(repository: Path) -> None:
    notes: list[str] = []
    first, tied, single_x, unrated = crema_d.read(repository, note=notes.append)
    assert (first.id, first.speaker, first.split) == ("crema-d/1001_IEO_HAP_LO", "crema-d-1001", "train")
    assert (first.emotion, first.text) == ("happiness", "it's eleven o'clock")
    assert first.votes == {"happiness": 6.0, "neutral": 3.0, "sadness": 1.0}
    assert first.extras == {"sentence": "IEO", "level": "low", "intended": "happiness"}
    assert (tied.split, tied.emotion) == ("dev", "anger")
    # One file of the release has a single X at its end.
    assert (single_x.split, single_x.emotion, single_x.extras["level"]) == ("test", "sadness", "unspecified")
    assert (
        unrated.votes == {} and "1 recordings have no votes in processedResults/tabulatedVotes.csv" in notes
    )


def test_the_crowd_may_decide_and_decides_nothing_in_a_tie(repository: Path) -> None:
    notes: list[str] = []
    clips = crema_d.read(repository, emotion="crowd", note=notes.append)
    assert [clip.emotion for clip in clips] == ["happiness", None, "neutral", None]
    assert clips[2].extras["intended"] == "sadness"
    assert "without an emotion: no class has most votes 2" in notes


def test_every_actor_is_in_one_fold(repository: Path) -> None:
    actors = [actor for group in crema_d.FOLDS for actor in group]
    assert len(actors) == len(set(actors)) == 91 and {len(group) for group in crema_d.FOLDS} == {18, 19}
    for clip in crema_d.read(repository):
        group = next(i for i, group in enumerate(crema_d.FOLDS) if clip.speaker in group)
        assert clip.split == ("train", "train", "train", "dev", "test")[group]


def test_stubs_of_git_lfs_are_named_as_such(repository: Path) -> None:
    (repository / "AudioWAV" / "1001_IEO_HAP_LO.wav").write_text(STUB)
    with pytest.raises(
        CorpusError, match=r"1 of 4 recordings are git-lfs stubs, not audio .*1001_IEO.*git lfs pull"
    ):
        crema_d.read(repository)


def test_a_table_of_votes_that_is_a_stub_or_none(repository: Path) -> None:
    path = repository / "processedResults" / "tabulatedVotes.csv"
    path.write_text(STUB)
    with pytest.raises(CorpusError, match=r"tabulatedVotes\.csv is a git-lfs stub, not a table"):
        crema_d.read(repository)
    path.unlink()
    notes: list[str] = []
    assert not any(clip.votes for clip in crema_d.read(repository, note=notes.append))
    assert notes == ["no processedResults/tabulatedVotes.csv: no clip has votes"]
    with pytest.raises(CorpusError, match="option emotion=crowd needs them"):
        crema_d.read(repository, emotion="crowd")


def test_a_stub_in_any_other_corpus_is_a_fault_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text(STUB)
    (tmp_path / "calls.csv").write_text("path\na.wav\n")
    with pytest.raises(CorpusError, match="1 git-lfs stub;"):
        prepare("table", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["hello", "1001_XYZ_HAP_LO", "1001_IEO_HAP"])
def test_strange_names_are_refused(repository: Path, name: str) -> None:
    (repository / "AudioWAV" / "1001_IEO_HAP_LO.wav").rename(repository / "AudioWAV" / f"{name}.wav")
    with pytest.raises(CorpusError, match=f"1 recordings do not have a name of CREMA-D .*{name}.wav"):
        crema_d.read(repository)


def test_an_unknown_emotion_is_a_fault(repository: Path, tmp_path: Path) -> None:
    (repository / "AudioWAV" / "1001_IEO_HAP_LO.wav").rename(repository / "AudioWAV" / "1001_IEO_BOR_LO.wav")
    with pytest.raises(CorpusError, match="1 unknown label"):
        prepare("crema-d", repository, tmp_path / "out")


@pytest.mark.parametrize("count", ["five", "-1", "nan", "inf"])
def test_bad_votes_are_named_by_line(repository: Path, count: str) -> None:
    path = repository / "processedResults" / "tabulatedVotes.csv"
    path.write_text(VOTES.replace('"100002",5', f'"100002",{count}'))
    with pytest.raises(CorpusError, match=r"line 3: expected counts of votes, .*1004_DFA_ANG_XX.*; mend"):
        crema_d.read(repository)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VOTES.replace("1004", "Zoë").encode("latin-1"), r"line 3: not UTF-8 \(byte 0xeb, .*\); convert"),
        (VOTES.replace("1004", "x" * 140_000).encode(), r"line 3: not a table \(field larger .*\); fetch"),
    ],
)
def test_a_table_of_votes_that_cannot_be_read(repository: Path, content: bytes, message: str) -> None:
    (repository / "processedResults" / "tabulatedVotes.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"tabulatedVotes\.csv, {message}") as fault:
        crema_d.read(repository)
    assert "\n" not in str(fault.value)


def test_the_command_prepares_the_crowds_labels(repository: Path, tmp_path: Path) -> None:
    arguments = ["corpus", "prepare", "crema-d", str(repository), str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--option", "emotion=crowd"])
    assert result.exit_code == 0, result.output
    assert "options: emotion=crowd" in result.stdout and "no class has most votes 2" in result.stdout
