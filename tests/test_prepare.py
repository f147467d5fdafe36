import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from voxstrata.audio import load_audio
from voxstrata.cli.main import app
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.faults import (
    FaultyCorpusError,
    clip_faults,
    inspect_all,
    inspect_audio,
    notes_on_levels,
    split_faults,
)
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError, LabelError


def noise(path: Path, seed: int, samples: int = 800, sample_rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(size=samples) * 0.1, sample_rate)
    return path


def write_table(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Two clips each of three speakers, one speaker a split."""
    rows = []
    for i, split in enumerate(["train", "train", "dev", "dev", "test", "test"]):
        noise(tmp_path / "audio" / f"{i}.wav", i, 800 + i)
        emotion = "anger" if i % 2 else "joy"
        rows.append(
            {
                "path": f"audio/{i}.wav",
                "emotion": emotion,
                "votes": {emotion: 3},
                "text": f"Take {i}!",
                "speaker": split,
                "split": split,
                "room": "7",
            }
        )
    return write_table(tmp_path, rows)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Two good clips and eight bad ones, of every kind that lies in a single clip but the repeated id."""
    noise(tmp_path / "first.wav", 0)
    soundfile.write(tmp_path / "again.flac", *soundfile.read(tmp_path / "first.wav", dtype="int16"))
    (tmp_path / "broken.wav").write_text("no audio")
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), 16_000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    noise(tmp_path / "short.wav", 1, 1_190, 48_000)
    noise(tmp_path / "enough.wav", 2, 1_200, 48_000)
    noise(tmp_path / "label.wav", 3)
    noise(tmp_path / "split.wav", 4)
    rows = [
        {"path": f"{name}", "emotion": "joy", "split": "train"}
        for name in (
            "first.wav",
            "again.flac",
            "gone.wav",
            "broken.wav",
            "silent.wav",
            "none.wav",
            "short.wav",
        )
    ]
    rows += [
        {"path": "enough.wav", "emotion": "anger", "split": "train"},
        {"path": "split.wav", "split": "x"},
    ]
    rows += [{"path": "label.wav", "emotion": "jy", "split": "train"}]
    return write_table(tmp_path, rows)


KINDS = {
    "calls/again": "duplicate audio",
    "calls/gone": "missing file",
    "calls/broken": "undecodable",
    "calls/silent": "empty",
    "calls/none": "empty",
    "calls/short": "too short",
    "calls/split": "unknown split",
    "calls/label": "unknown label",
}


def test_every_fault_is_found_at_once_and_nothing_is_written(bad: Path, tmp_path: Path) -> None:
    with pytest.raises(FaultyCorpusError) as caught:
        prepare("table", bad, tmp_path / "out" / "deep", labels=["anger", "joy"])
    assert {fault.id: fault.kind for fault in caught.value.faults} == KINDS
    assert len(caught.value.faults) == len(KINDS)
    assert not (tmp_path / "out").exists()


def test_skip_bad_leaves_out_exactly_what_it_names(bad: Path, tmp_path: Path) -> None:
    prepared = prepare("table", bad, tmp_path / "out", labels=["anger", "joy"], skip_bad=True)
    assert [cut.id for cut in prepared.cuts()] == ["calls/first", "calls/enough"]
    assert {line.split(": ")[1]: line.split(": ")[0] for line in prepared.left_out} == KINDS
    assert PreparedCorpus.load(tmp_path / "out") == prepared


def test_without_labels_any_name_is_a_label(good: Path, tmp_path: Path) -> None:
    assert prepare("table", good, tmp_path / "out").labels == ("anger", "joy")
    assert prepare("table", good, tmp_path / "out", labels=["joy", "anger", "awe"]).labels == (
        "joy",
        "anger",
        "awe",
    )
    with pytest.raises(LabelError, match="distinct"):
        prepare("table", good, tmp_path / "out", labels=["joy", "joy"])


def test_a_speaker_in_two_splits_is_refused_also_with_skip_bad(good: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in good.read_text().splitlines()]
    rows[0]["speaker"] = "test"
    write_table(tmp_path, rows)
    for skip_bad in (False, True):
        with pytest.raises(FaultyCorpusError, match="calls-test: 2 clips in test, 1 clip in train"):
            prepare("table", good, tmp_path / "out", skip_bad=skip_bad)
    assert not (tmp_path / "out").exists()


def test_a_split_leak_that_leaves_with_a_bad_clip_is_none(good: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in good.read_text().splitlines()]
    rows[0].update(speaker="test", path="audio/gone.wav")
    write_table(tmp_path, rows)
    assert len(prepare("table", good, tmp_path / "out", skip_bad=True).cuts()) == 5


def test_unknown_speakers_are_not_one_speaker() -> None:
    clips = [Clip("a", Path("a"), None, "train"), Clip("b", Path("b"), None, "test")]
    assert split_faults(clips) == []


def test_of_the_same_audio_the_first_good_clip_stays(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{i}.wav", 0) for i in range(3)]
    clips = [Clip(f"{i}", path, None, "train", "joy") for i, path in enumerate(paths)]
    clips[0] = Clip("0", paths[0], None, "train", "jy")
    faults = clip_faults(clips, [inspect_audio(path) for path in paths], ["joy", "anger"])
    assert [(f.id, f.kind) for f in faults] == [
        ("0", "unknown label"),
        ("0", "duplicate audio"),
        ("2", "duplicate audio"),
    ]


def test_ids_stand_once(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{i}.wav", i) for i in range(2)]
    clips = [Clip("same", path, None, "train") for path in paths]
    (fault,) = clip_faults(clips, [inspect_audio(path) for path in paths])
    assert (fault.kind, fault.position) == ("duplicate id", 1)


def test_cuts_hold_what_the_reader_said_and_what_the_decoder_gives(good: Path, tmp_path: Path) -> None:
    prepare("table", good, tmp_path / "out")
    cuts = PreparedCorpus.load(tmp_path / "out").cuts("dev")
    assert [cut.id for cut in cuts] == ["calls/audio/2", "calls/audio/3"]
    cut = cuts[0]
    (supervision,) = cut.supervisions
    assert (supervision.text, supervision.speaker) == ("take 2", "calls-dev")
    assert supervision.custom == {"emotion": "joy", "votes": {"joy": 3.0}, "room": "7"}
    assert cut.custom["split"] == "dev"
    samples = load_audio(Path(cut.recording.sources[0].source))
    assert len(samples) == cut.num_samples == cut.recording.num_samples == 802
    assert cut.recording.sampling_rate == 16_000 and Path(cut.recording.sources[0].source).is_absolute()


def test_cut_length_is_the_length_after_resampling(tmp_path: Path) -> None:
    noise(tmp_path / "a.wav", 0, 12_347, 44_100)
    cut = prepare("table", write_table(tmp_path, [{"path": "a.wav"}]), tmp_path / "out").cuts()[0]
    assert cut.num_samples == len(load_audio(tmp_path / "a.wav"))
    assert cut.supervisions[0].speaker is None and cut.supervisions[0].custom.get("emotion") is None


def test_fingerprint_knows_content_not_place(good: Path, tmp_path: Path) -> None:
    first = prepare("table", good, tmp_path / "one").fingerprint
    (tmp_path / "moved").mkdir()
    (tmp_path / "audio").rename(tmp_path / "moved" / "audio")
    moved = good.rename(tmp_path / "moved" / "calls.jsonl")
    assert prepare("table", moved, tmp_path / "two").fingerprint == first
    noise(tmp_path / "moved" / "audio" / "0.wav", 99)
    assert prepare("table", moved, tmp_path / "two").fingerprint != first


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [("Take 0!", "Take nine", True), ('"joy": 3', '"joy": 2', True), ("7", "8", False)],
)
def test_fingerprint_changes_with_texts_and_votes_but_not_extras(
    good: Path, tmp_path: Path, old: str, new: str, changes: bool
) -> None:
    first = prepare("table", good, tmp_path / "one").fingerprint
    good.write_text(good.read_text().replace(old, new))
    assert (prepare("table", good, tmp_path / "one").fingerprint != first) == changes


def test_the_same_corpus_is_written_byte_for_byte(good: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        prepare("table", good, tmp_path / out)
    for name in ("cuts.jsonl.gz", "corpus.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_files_that_do_not_belong_together_are_not_loaded(good: Path, tmp_path: Path) -> None:
    prepare("table", good, tmp_path / "out")
    (tmp_path / "out" / "cuts.jsonl.gz").write_bytes(b"cut off")
    with pytest.raises(CorpusError, match="is not the file"):
        PreparedCorpus.load(tmp_path / "out")
    (tmp_path / "out" / "corpus.json").write_text("{}")
    with pytest.raises(CorpusError, match="cannot be read"):
        PreparedCorpus.load(tmp_path / "out")
    with pytest.raises(CorpusError, match="no prepared corpus"):
        PreparedCorpus.load(tmp_path)


def test_asking_for_what_is_not_there_is_an_error(good: Path, tmp_path: Path) -> None:
    prepared = prepare("table", good, tmp_path / "out")
    with pytest.raises(CorpusError, match="there are train, dev, test"):
        prepared.cuts("validation")
    with pytest.raises(CorpusError, match="no fold 1; there are none"):
        prepared.cuts("test", fold=1)
    noise(tmp_path / "a.wav", 7)
    only = prepare("table", write_table(tmp_path, [{"path": "a.wav"}]), tmp_path / "only")
    assert only.splits == ("train",)
    with pytest.raises(CorpusError, match="no clips in dev; it has train 1"):
        only.cuts("dev")


def test_output_that_cannot_be_written_is_said_before_the_work(good: Path, tmp_path: Path) -> None:
    looked_at: list[int] = []
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot write into"):
        prepare("table", good, tmp_path / "file" / "out", progress=lambda done, total: looked_at.append(done))
    assert looked_at == []


def test_the_command_prints_counts_and_leaves_a_corpus(good: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["corpus", "prepare", "table", str(good), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["train", "2", "0.0", "1", "2", "2"] in lines and ["joy", "1", "1", "1", "3"] in lines
    assert ["calls-dev", "2", "calls-test", "2", "calls-train", "2"] in lines
    assert PreparedCorpus.load(tmp_path / "out").name == "table"


def test_the_command_lists_faults_and_exits_with_2_or_3(bad: Path, tmp_path: Path) -> None:
    arguments = ["corpus", "prepare", "table", str(bad), str(tmp_path / "out"), "--labels", "anger, joy"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, CorpusError) and refused.exception.exit_code == 2
    assert refused.stdout == "" and all(f"{kind}: {name}: " in refused.stderr for name, kind in KINDS.items())
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert {row["id"]: row["kind"] for row in json.loads(as_json.stdout)["faults"]} == KINDS
    skipped = CliRunner().invoke(app, [*arguments, "--skip-bad", "--json"])
    assert skipped.exit_code == 3
    content = json.loads(skipped.stdout)
    assert len(content["left_out"]) == 8 and content["summary"]["splits"]["all"]["clips"] == 2


def test_the_command_lists_corpora() -> None:
    rows = json.loads(CliRunner().invoke(app, ["corpus", "list", "--json"]).stdout)
    assert {row["name"]: row["folds"] for row in rows} == {
        "ravdess": 6, "tess": 0, "crema-d": 5, "iemocap": 5, "msp-podcast": 0, "emilia": 0, "an4": 0,
        "librispeech": 0, "synthetic": 0, "table": 0,
    }  # fmt: skip
    with pytest.raises(CorpusError, match="there are ravdess, tess"):
        prepare("timit", Path(), Path("out"))


def test_trimmed_clips_are_what_batches_give_and_the_whole_files_stay(tmp_path: Path) -> None:
    from voxstrata.batches.source import BatchOptions, BatchSource

    speech = np.random.default_rng(0).normal(size=(2, 8000)) * 0.1
    # Half a second of faint hiss before, a second behind; a pause in the middle of the second clip.
    hiss = np.random.default_rng(1).normal(size=24_000) * 1e-4
    clips = [np.concatenate([hiss[:8000], each, hiss[8000:]]) for each in speech]
    clips[1][10_000:14_000] = hiss[:4000]
    for i, samples in enumerate(clips):
        soundfile.write(tmp_path / f"{i}.wav", samples, 16_000)
    rows = [{"path": f"{i}.wav", "emotion": "joy", "split": "train"} for i in range(2)]
    table = write_table(tmp_path, rows)
    arguments = ["corpus", "prepare", "table", str(table), str(tmp_path / "out"), "--trim-silence"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    trimmed, whole = PreparedCorpus.load(tmp_path / "out"), prepare("table", table, tmp_path / "whole")
    assert trimmed.fingerprint != whole.fingerprint
    assert "silence at both ends trimmed (35 dB under the loudest" in result.output
    assert trimmed.summary.splits["train"].duration_min == pytest.approx(2 * 0.7 / 60, rel=0.05)
    (batch,) = BatchSource(trimmed.stream(), BatchOptions(batch_size=2, shuffle=False)).epoch(0)
    assert batch.lengths.tolist() == [cut.num_samples for cut in trimmed.cuts()]
    for waveform, cut in zip(batch.waveforms, trimmed.cuts(), strict=True):
        assert 0.39 < cut.start < 0.41 and 1.09 < cut.end < 1.13
        start = round(cut.start * 16_000)
        expected = clips[int(Path(cut.recording.sources[0].source).stem)][start : start + cut.num_samples]
        # Decoded clips are kept with 16 bits.
        np.testing.assert_allclose(waveform[: cut.num_samples], expected, atol=2**-15)


def test_clips_with_the_times_of_their_phonemes_are_not_trimmed(good: Path, tmp_path: Path) -> None:
    rows = [{**json.loads(line), "phonemes": "0.0 a"} for line in good.read_text().splitlines()]
    good.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CorpusError, match="6 clips of table have times of their phonemes"):
        prepare("table", good, tmp_path / "out", trim_silence=True)
    assert not (tmp_path / "out").exists()


def test_recordings_that_are_too_loud_or_too_quiet_are_counted(tmp_path: Path) -> None:
    paths = []
    for peak in (1.0, 0.0011, 8.0, 32_767.0, 1e-5):
        paths.append(tmp_path / f"{peak}.wav")
        soundfile.write(paths[-1], np.sin(np.arange(1, 801)) * peak, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "zero.wav", np.zeros(800), 16_000)
    inspections = inspect_all([*paths, tmp_path / "zero.wav"])
    assert notes_on_levels(inspections) == [
        "level: 2 over full scale (the loudest 32767 times) and 1 with a peak under 0.001 of full scale, "
        "of 5 recordings; these are scaled to full scale"
    ]
    assert notes_on_levels(inspections[:2]) == []
    assert len(notes_on_levels(inspections[1:3])) == 1
