"""Clips that are stretches of recordings: as a table tells them, and as training hears them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet
from typer.testing import CliRunner

from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.cli.main import app
from voxstrata.corpora import own_table as table
from voxstrata.corpora.faults import FaultyCorpusError
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.rows import RowError
from voxstrata.corpora.shar import write_shar
from voxstrata.corpora.stretches import stretch_of
from voxstrata.errors import CorpusError

RATE = 16_000


def recording(path: Path, seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(size=round(seconds * rate)) * 0.1
    soundfile.write(path, samples, rate)
    return samples


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"start": 1, "end": 2.5}, (1, 2.5)),
        ({"offset": "1", "duration": "1.5"}, (1, 2.5)),
        ({"start": 1, "duration": 1.5}, (1, 2.5)),
        ({"start": 1, "end": 2.5, "duration": 1.504}, (1, 2.5)),
        ({"offset": 1, "start": 1.0}, (1, None)),
        ({"end": 2.5}, (0, 2.5)),
        ({"start": 0}, (0, None)),
        ({"start": float("nan"), "end": None, "offset": ""}, (0, None)),
        ({"duration": 7}, (0, None)),
        ({}, (0, None)),
    ],
)
def test_columns_tell_a_stretch(told: dict[str, object], expected: tuple[float, float | None]) -> None:
    row, *stretch = stretch_of({"path": "a.wav", **told})
    assert tuple(stretch) == expected
    assert row["path"] == "a.wav" and row.get("duration") == (7 if told == {"duration": 7} else None)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"start": -1, "end": 2}, "start must be seconds from 0 on, as in 12.5; found -1"),
        ({"offset": "00:01"}, "offset must be seconds"),
        ({"start": 1e308}, r"start must be seconds from 0 on, as in 12.5; found 1e\+308"),
        ({"offset": "9" * 600}, "offset must be seconds from 0 on, as in 12.5; found '9{39}$"),
        ({"start": 1, "end": float("inf")}, "end must be seconds"),
        ({"start": True, "end": 2}, "start must be seconds"),
        ({"start": 2, "end": 2}, "from 2 to 2 s holds nothing"),
        ({"start": 2, "end": 1}, "from 2 to 1 s holds nothing"),
        ({"offset": 2, "duration": 0}, "holds nothing"),
        ({"offset": 2, "duration": -1}, "duration must be seconds"),
        ({"start": 1, "offset": 2}, "start 1 and offset 2 differ"),
        ({"start": 1, "end": 2, "duration": 2}, r"end 2 s is not start and duration \(3 s\)"),
    ],
)
def test_a_wrong_stretch_is_one_fault_of_its_row(tmp_path: Path, told: dict[str, object], said: str) -> None:
    with pytest.raises(RowError, match=said):
        stretch_of({"path": "a.wav", **told})
    rows = [{"path": "b.wav"}, {"path": "a.wav", **told}, {"path": "c.wav"}]
    with pytest.raises(CorpusError, match=rf"line 2: .*{said}") as caught:
        table.read(write(tmp_path, rows))
    assert "line 1" not in str(caught.value) and "line 3" not in str(caught.value)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_either_pair_of_columns_tells_the_same(start: int, length: int) -> None:
    first, second = start / 1000, length / 1000
    by_end = stretch_of({"start": first, "end": first + second})
    assert stretch_of({"offset": str(first), "duration": str(second)})[1:] == pytest.approx(by_end[1:])


@pytest.mark.parametrize("rate", [RATE, 44_100, 8_000])
@pytest.mark.parametrize("trim", [False, True])
def test_two_stretches_of_one_file_are_two_clips_and_training_hears_them(
    tmp_path: Path, rate: int, trim: bool
) -> None:
    from voxstrata.audio import load_audio
    from voxstrata.batches.source import BatchOptions, BatchSource

    recording(tmp_path / "long.wav", 3, rate=rate)
    parts = [(0.25, 1.0), (1.0, 2.25)]
    rows = [
        {"path": "long.wav", "text": text, "start": start, "end": end, "speaker": "ann"}
        for text, (start, end) in zip(("one", "two"), parts, strict=True)
    ]
    prepare("table", write(tmp_path, rows), tmp_path / "out", trim_silence=trim)
    cuts = list(PreparedCorpus.load(tmp_path / "out").stream())
    assert [cut.id for cut in cuts] == ["calls/long-0000250-0001000", "calls/long-0001000-0002250"]
    assert [cut.supervisions[0].text for cut in cuts] == ["one", "two"]
    for cut, (start, end) in zip(cuts, parts, strict=True):
        # Noise has no silence at its ends to be trimmed.
        assert (cut.start, cut.end) == pytest.approx((start, end), abs=2 / rate)
        assert cut.recording.duration == pytest.approx(3)
    whole = load_audio(tmp_path / "long.wav")
    (batch,) = BatchSource(iter(cuts), BatchOptions(batch_size=2, shuffle=False)).epoch(0)
    for waveform, length, (start, end) in zip(batch.waveforms, batch.lengths, parts, strict=True):
        first = round(start * RATE)
        assert int(length) == pytest.approx((end - start) * RATE, abs=1)
        # Away from the ends, where the resampler sees other neighbours.
        middle = slice(800, int(length) - 800)
        expected = whole[first : first + int(length)][middle]
        np.testing.assert_allclose(waveform[: int(length)][middle], expected, atol=1e-3)


def test_what_lies_beyond_a_file_is_a_fault_of_that_clip_alone(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2)
    stretches = [(0.0, 1.0), (1.0, 2.009), (1.0, 2.5), (2.0, 2.005), (5.0, None)]
    rows = [{"path": "a.wav", "id": str(i), "start": s, "end": e} for i, (s, e) in enumerate(stretches)]
    with pytest.raises(FaultyCorpusError) as caught:
        prepare("table", write(tmp_path, rows), tmp_path / "out")
    assert {(f.id, f.kind) for f in caught.value.faults} == {
        (f"calls/{i}", "wrong stretch") for i in (2, 3, 4)
    }
    assert "1 s to 2.5 s of" in str(caught.value) and "which has 2.000 s" in str(caught.value)
    kept = prepare("table", write(tmp_path, rows), tmp_path / "out", skip_bad=True)
    assert [(cut.id, cut.end) for cut in kept.stream()] == [("calls/0", 1.0), ("calls/1", 2.0)]


def test_each_stretch_is_judged_by_its_own_sound(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(RATE), np.random.default_rng(0).normal(size=RATE) * 0.1])
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    rows = [
        {"path": "a.wav", "start": 0, "end": 0.5},
        {"path": "a.wav", "start": 1, "end": 1.5},
        {"path": "a.wav", "start": 1.5, "end": 1.51},
        {"path": "a.wav", "id": "again", "offset": 1, "duration": 0.5},
        {"path": "gone.wav", "start": 1, "end": 2},
    ]
    with pytest.raises(FaultyCorpusError) as caught:
        prepare("table", write(tmp_path, rows), tmp_path / "out")
    assert [(f.id, f.kind) for f in caught.value.faults] == [
        ("calls/a-0000000-0000500", "empty"),
        ("calls/a-0001500-0001510", "too short"),
        ("calls/again", "duplicate audio"),
        ("calls/gone-0001000-0002000", "missing file"),
    ]


def test_a_whole_file_told_as_a_stretch_has_the_same_fingerprint(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2)
    prints = [
        prepare(
            "table", write(tmp_path, [{"path": "a.wav", "id": "a", **more}]), tmp_path / "out"
        ).fingerprint
        for more in ({}, {"start": 0}, {"start": 0, "end": 2}, {"offset": 0, "duration": 1})
    ]
    assert prints[0] == prints[1] == prints[2] != prints[3]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    rows = []
    for number in range(8):
        recording(tmp_path / f"{number}.wav", 0.1, seed=number)
        rows.append({"path": f"{number}.wav", "speaker": "abcd"[number % 4], "emotion": "ab"[number % 2]})
    return write(tmp_path, rows)


def test_a_column_of_folds_makes_the_folds_of_a_corpus(people: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in people.read_text().splitlines()]
    plain = prepare("table", people, tmp_path / "plain")
    assert plain.folds == ()
    write(tmp_path, [{**row, "fold": "abcd".index(row["speaker"]) // 2 * 2 % 3 + 1} for row in rows])
    with pytest.raises(CorpusError, match="no clip is in fold 2"):
        prepare("table", people, tmp_path / "out")
    write(tmp_path, [{**row, "fold": {"a": 2, "b": 1, "c": 3, "d": 1}[row["speaker"]]} for row in rows])
    told = prepare("table", people, tmp_path / "out")
    assert told.folds == (("calls-b", "calls-d"), ("calls-a",), ("calls-c",))
    assert {cut.supervisions[0].speaker for cut in told.cuts("test", fold=1)} == {"calls-b", "calls-d"}
    assert {cut.supervisions[0].speaker for cut in told.cuts("dev", fold=1)} == {"calls-a"}
    assert told.fingerprint != plain.fingerprint


def test_the_command_makes_folds_by_speaker(people: Path, tmp_path: Path) -> None:
    def command(*more: str):
        arguments = ["corpus", "prepare", "table", str(people), str(tmp_path / "out"), *more]
        return CliRunner().invoke(app, arguments)

    assert command("--folds", "by-speaker", "3").exit_code == 0
    prepared = PreparedCorpus.load(tmp_path / "out")
    assert sorted(map(len, prepared.folds)) == [1, 1, 2]
    for fold in (1, 2, 3):
        parts = [
            {cut.supervisions[0].speaker for cut in prepared.cuts(split, fold=fold)}
            for split in ("train", "dev", "test")
        ]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 4
    for more, said in (
        (("--folds", "by-clip", "3"), "by-speaker, as in --folds by-speaker 5; found 'by-clip'"),
        (("--folds", "by-speaker", "5"), "4 speakers are too few for 5 folds"),
        (("--folds", "by-speaker", "1"), "give at least 3"),
    ):
        result = command(*more)
        assert isinstance(result.exception, CorpusError) and said in str(result.exception)


def test_one_subset_of_librispeech_may_be_the_test(tmp_path: Path) -> None:
    for number, subset in enumerate(("train-clean-100", "dev-other", "test-clean", "test-other")):
        chapter = tmp_path / "LibriSpeech" / subset / f"{number}" / "7"
        chapter.mkdir(parents=True)
        recording(chapter / f"{number}-7-0000.flac", 0.1, seed=number)
        (chapter / f"{number}-7.trans.txt").write_text(f"{number}-7-0000 GO ON\n")
    for test, expected in (("pooled", {"test-clean", "test-other"}), ("other", {"test-other"})):
        prepared = prepare("librispeech", tmp_path / "LibriSpeech", tmp_path / test, options={"test": test})
        subsets = {cut.supervisions[0].custom["subset"] for cut in prepared.cuts("test")}
        assert subsets == expected and prepared.options == {"dev": "pooled", "test": test}
        assert len(prepared.cuts("train")) == len(prepared.cuts("dev")) == 1


def test_a_tar_holds_the_stretches_alone_and_they_are_heard_as_before(tmp_path: Path) -> None:
    recording(tmp_path / "long.wav", 10.0)
    rows = [
        {"path": "long.wav", "speaker": f"s{i}", "emotion": "ab"[i % 2], "start": i, "end": i + 0.5}
        for i in range(6)
    ]
    plain = prepare("table", write(tmp_path, rows), tmp_path / "plain")
    packed = write_shar(plain, tmp_path / "packed")
    assert (packed.fingerprint, packed.splits) == (plain.fingerprint, plain.splits)
    sizes = [file.stat().st_size for file in set(packed.audio_files())]
    assert sum(sizes) < 6 * 0.5 * RATE * 2 * 1.3 + 20_000, "three seconds, not sixty"
    for ours, theirs in zip(packed.stream(), plain.stream(), strict=True):
        assert (ours.start, ours.num_samples) == (0, theirs.num_samples == 8000 and 8000)
        heard, before = (
            BatchSource([cut], BatchOptions(batch_size=1, shuffle=False)) for cut in (ours, theirs)
        )
        (one,), (other,) = heard.epoch(0), before.epoch(0)
        assert torch.allclose(one.waveforms, other.waveforms, atol=1e-4)
    cuts = CutSet.from_shar(in_dir=packed.folder / "shar")
    for cut, ours in zip(cuts, packed.stream(), strict=True):
        assert cut.load_audio().shape == (1, ours.num_samples)
