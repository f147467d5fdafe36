import os
from collections import Counter
from pathlib import Path

import pytest

from voxstrata.corpora import an4, librispeech, ravdess, tess
from voxstrata.corpora.faults import FaultyCorpusError
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.readers import READERS


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("VOXSTRATA_DATA")
    if not folder:
        pytest.skip("VOXSTRATA_DATA is not set: no real recordings here")
    return Path(folder)


def test_real_ravdess_is_complete(data: Path) -> None:
    clips = ravdess.read(data / "RAVDESS")
    assert Counter(clip.split for clip in clips) == {"train": 960, "dev": 240, "test": 240}
    assert len({clip.speaker for clip in clips}) == 24
    counts = Counter(clip.emotion for clip in clips)
    assert counts.pop("neutral") == 96 and set(counts.values()) == {192} and len(counts) == 7


def test_ravdess_folds_are_six_groups_of_all_speakers(data: Path) -> None:
    speakers = [speaker for fold in ravdess.FOLDS for speaker in fold]
    assert speakers == sorted({clip.speaker for clip in ravdess.read(data / "RAVDESS")})
    assert ravdess.FOLDS[1] == ("ravdess-05", "ravdess-06", "ravdess-07", "ravdess-08")
    assert [len(fold) for fold in ravdess.FOLDS] == [4] * 6


def test_real_tess_has_110_words_in_7_emotions_by_2_speakers(data: Path) -> None:
    counts = Counter((clip.speaker, clip.emotion) for clip in tess.read(data / "TESS"))
    assert set(counts.values()) == {110} and len(counts) == 14
    assert {emotion for _, emotion in counts} == set(READERS["tess"].labels)


def test_words_of_real_tess_that_are_kept_for_the_test_are_not_trained(data: Path) -> None:
    clips = tess.read(data / "TESS", split="both")
    words = {split: {c.extras["word"] for c in clips if c.split == split} for split in ("train", "test")}
    assert not words["train"] & words["test"] and len(words["train"] | words["test"]) == 110
    assert {split: len(found) for split, found in words.items()} == {"train": 90, "test": 20}
    assert len(clips) == 7 * 110


def test_real_an4_is_divided_by_speaker(data: Path) -> None:
    clips = an4.read(data / "AN4")
    counts = Counter(clip.split for clip in clips)
    assert counts["train"] + counts["dev"] == 948 and counts["test"] == 130
    speakers = [{c.speaker for c in clips if c.split == split} for split in ("train", "dev", "test")]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 84
    assert len(speakers[1]) == 7 and all(clip.text and clip.path.is_file() for clip in clips)
    assert set("".join(clip.text or "" for clip in clips)) <= set("abcdefghijklmnopqrstuvwxyz' ")


def test_real_librispeech_is_ten_speakers(data: Path) -> None:
    clips = librispeech.read(data / "LibriSpeech")
    assert len(clips) == 100 and {clip.split for clip in clips} == {"test"}
    assert len({clip.speaker for clip in clips}) == 10


@pytest.mark.parametrize("name", ["RAVDESS", "TESS", "AN4", "LibriSpeech"])
def test_ids_of_real_corpora_are_unique_prefixed_and_in_a_fixed_order(data: Path, name: str) -> None:
    clips = READERS[name.lower()].read(data / name)
    assert len({clip.id for clip in clips}) == len(clips)
    assert all(c.id.startswith(f"{name.lower()}/") for c in clips)
    assert all(c.speaker and c.speaker.startswith(f"{name.lower()}-") for c in clips)
    assert clips == READERS[name.lower()].read(data / name)


@pytest.fixture(scope="module")
def real(data: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    out = tmp_path_factory.mktemp("prepared") / "ravdess"
    with pytest.raises(FaultyCorpusError) as caught:
        prepare("ravdess", data / "RAVDESS", out)
    assert [(f.kind, f.id) for f in caught.value.faults] == [
        ("duplicate audio", "ravdess/03-01-03-01-02-02-07")
    ]
    return prepare("ravdess", data / "RAVDESS", out, skip_bad=True)


def test_real_ravdess_loses_only_its_known_duplicate(real: PreparedCorpus) -> None:
    assert real.summary.splits["all"].clips == 1439
    assert real.summary.splits["all"].duration_min == pytest.approx(89, abs=0.5)
    assert "ravdess/03-01-03-01-02-01-07" in {cut.id for cut in real.cuts()}
    assert len(real.labels) == 8 and real.labels == tuple(sorted(real.labels))


@pytest.mark.parametrize(("fold", "test", "dev"), [(1, "01", "05"), (2, "05", "09"), (6, "21", "01")])
def test_real_ravdess_folds_are_disjoint_by_speaker(
    real: PreparedCorpus, fold: int, test: str, dev: str
) -> None:
    parts = {split: real.cuts(split, fold) for split in ("train", "dev", "test")}
    speakers = {split: {cut.supervisions[0].speaker for cut in cuts} for split, cuts in parts.items()}
    assert min(speakers["test"]) == f"ravdess-{test}" and min(speakers["dev"]) == f"ravdess-{dev}"
    assert [len(speakers[split]) for split in ("train", "dev", "test")] == [16, 4, 4]
    assert len(set().union(*speakers.values())) == 24
    assert sum(len(cuts) for cuts in parts.values()) == 1439
    assert all(cut.custom["split"] == split for split, cuts in parts.items() for cut in cuts)


@pytest.mark.parametrize(
    ("name", "clips", "speakers", "minutes"),
    [
        pytest.param("TESS", 1540, 2, 53, marks=pytest.mark.slow),
        pytest.param("AN4", 1078, 84, 48, marks=pytest.mark.slow),
        ("LibriSpeech", 100, 10, 13),
    ],
)
def test_real_corpora_have_no_faults(
    data: Path, tmp_path: Path, name: str, clips: int, speakers: int, minutes: float
) -> None:
    counts = prepare(name.lower(), data / name, tmp_path).summary.splits["all"]
    assert (counts.clips, counts.speakers) == (clips, speakers)
    assert counts.duration_min == pytest.approx(minutes, abs=0.6)
