"""Batches from real files: grouping, targets, crops, the cache and the thread that works ahead."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment
from numpy.typing import NDArray

from voxstrata.audio import load_audio
from voxstrata.batches import waveforms
from voxstrata.batches.batch import Batch
from voxstrata.batches.buckets import plan_epoch
from voxstrata.batches.prefetch import prefetched
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.batches.waveforms import crop_start
from voxstrata.errors import AudioError, CorpusError, LabelError, RecipeError, VoxstrataError
from voxstrata.labels import LabelSet
from voxstrata.vocabulary import Vocabulary

LABELS = LabelSet(("anger", "neutral", "sadness"))
EMOTIONS = ("anger", "neutral", None)


def cut(name: str, path: Path, samples: int, **known: Any) -> MonoCut:
    duration = samples / 16_000
    text, speaker = known.pop("text", None), known.pop("speaker", None)
    source = AudioSource(type="file", channels=[0], source=str(path))
    return MonoCut(
        id=name,
        start=0.0,
        duration=duration,
        channel=0,
        recording=Recording(name, [source], 16_000, samples, duration),
        supervisions=[
            SupervisionSegment(name, name, 0.0, duration, text=text, speaker=speaker, custom=dict(known))
        ],
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, NDArray[np.int16]]]:
    """Thirty FLAC files of 0.1 to 0.7 s."""
    folder = tmp_path_factory.mktemp("flac")
    rng = np.random.default_rng(0)
    made = {}
    for i in range(30):
        values = rng.integers(-20_000, 20_000, size=int(rng.integers(1_600, 11_200))).astype(np.int16)
        path = folder / f"{i:02d}.flac"
        soundfile.write(path, values, 16_000)
        made[f"clip{i:02d}"] = (path, values)
    return made


@pytest.fixture(scope="module")
def cuts(samples: dict[str, tuple[Path, NDArray[np.int16]]]) -> CutSet:
    made = [
        cut(
            name, path, len(values), text="ab" * (1 + i % 3), speaker=f"s{i % 4}", emotion=EMOTIONS[i % 3],
            votes={"anger": 2, "neutral": 1, "other": 5} if i % 5 else {"other": 1},
        )
        for i, (name, (path, values)) in enumerate(samples.items())
    ]  # fmt: skip
    return CutSet(made)


def ids(batches: Iterator[Batch]) -> list[tuple[str, ...]]:
    return [batch.ids for batch in batches]


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.references == b.references
    assert torch.equal(a.waveforms, b.waveforms) and torch.equal(a.lengths, b.lengths)


def test_waveforms_of_a_batch_are_those_of_the_files(
    cuts: CutSet, samples: dict[str, tuple[Path, NDArray[np.int16]]]
) -> None:
    source = BatchSource(cuts, BatchOptions(batch_size=4, labels=LABELS, vocabulary=Vocabulary.of(["ab"])))
    assert source.left_out == {"no emotion": 10} and len(source) == 20
    seen = []
    for batch in source.epoch(0):
        assert batch.waveforms.dtype == torch.float32 and batch.lengths.dtype == torch.int64
        assert batch.tokens is not None and batch.token_lengths is not None
        assert batch.emotion_targets is not None
        for i, reference in enumerate(batch.references):
            path, values = samples[reference.id]
            length = int(batch.lengths[i])
            assert reference.path == str(path)
            np.testing.assert_array_equal(batch.waveforms[i, :length].numpy() * 32_768, values)
            assert not batch.waveforms[i, length:].any()
            assert reference.transcript is not None and reference.emotion is not None
            assert batch.tokens[i, : batch.token_lengths[i]].tolist() == [1, 2] * (
                len(reference.transcript) // 2
            )
            assert not batch.tokens[i, batch.token_lengths[i] :].any()
            assert LABELS.names[int(batch.emotion_targets[i].argmax())] == reference.emotion
            assert batch.emotion_targets[i].sum() == 1
            seen.append(reference.id)
    assert len(seen) == len(set(seen)) == 20


def test_without_tasks_all_clips_come_with_waveforms_only(cuts: CutSet) -> None:
    source = BatchSource(cuts, BatchOptions(batch_size=8, shuffle=False))
    batches = list(source.epoch(0))
    assert sum(map(len, batches)) == 30 and source.left_out == {}
    assert all(batch.emotion_targets is None and batch.tokens is None for batch in batches)
    lengths = torch.cat([batch.lengths for batch in batches])
    assert torch.equal(lengths, lengths.sort().values)
    with pytest.raises(RecipeError, match="no emotion targets"):
        source.emotion_target_matrix()


def test_an_epoch_is_a_function_of_seed_and_epoch(cuts: CutSet) -> None:
    def source(seed: int) -> BatchSource:
        return BatchSource(cuts, BatchOptions(batch_size=3, buckets=2, seed=seed, crop_s=0.2))

    one, other = source(0), source(0)
    list(one.epoch(4))
    for a, b in zip(one.epoch(2), other.epoch(2), strict=True):
        assert_equal(a, b)
    orders = [ids(source(seed).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)]
    groups = {frozenset(frozenset(batch) for batch in order) for order in orders}
    assert len(groups) == 4


def test_skipped_batches_are_not_decoded(cuts: CutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    source = BatchSource(cuts, BatchOptions(batch_size=4, cache_bytes=0))
    whole = list(source.epoch(1))
    decoded: list[Path] = []

    def load(path: Path) -> NDArray[np.float32]:
        decoded.append(path)
        return load_audio(path)

    monkeypatch.setattr(waveforms, "load_audio", load)
    rest = list(source.epoch(1, skip=3))
    for a, b in zip(whole[3:], rest, strict=True):
        assert_equal(a, b)
    assert len(decoded) == sum(map(len, rest))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=120),
    batch_size=st.integers(1, 9),
    buckets=st.integers(1, 12),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_a_plan_holds_every_clip_once_and_has_the_same_size_in_each_epoch(
    lengths: list[float], batch_size: int, buckets: int, shuffle: bool, seed: int
) -> None:
    clips = [(str(i), length) for i, length in enumerate(lengths)]
    options: dict[str, Any] = {"batch_size": batch_size, "buckets": buckets, "shuffle": shuffle, "seed": seed}
    plans = [plan_epoch(clips, **options, epoch=epoch) for epoch in (0, 1, 7)]
    for plan in plans:
        assert sorted(name for batch in plan for name in batch) == sorted(name for name, _ in clips)
        assert all(1 <= len(batch) <= batch_size for batch in plan)
        assert len(plan) == math.ceil(len(clips) / batch_size)
    assert plans[1] == plan_epoch(clips[::-1], **options, epoch=1)


def test_a_plan_does_not_depend_on_a_launchers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [(str(i), 1.0 + i) for i in range(50)]
    options: dict[str, Any] = {"batch_size": 4, "buckets": 3, "shuffle": True, "seed": 0, "epoch": 0}
    alone = plan_epoch(clips, **options)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert plan_epoch(clips, **options) == alone


def test_buckets_spare_padding() -> None:
    rng = np.random.default_rng(0)
    length = {str(i): float(d) for i, d in enumerate(rng.uniform(1, 20, size=800))}

    def efficiency(buckets: int) -> float:
        plan = plan_epoch(list(length.items()), batch_size=8, buckets=buckets, shuffle=True, seed=0, epoch=0)
        return sum(length.values()) / sum(len(b) * max(length[name] for name in b) for b in plan)

    assert efficiency(10) > 0.85 > efficiency(1)


def crop(wave, samples, **drawn):
    start = crop_start(len(wave), samples, **drawn)
    return wave[start : start + samples]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**40), st.booleans())
def test_a_crop_is_a_stretch_of_the_clip_that_depends_on_seed_epoch_and_clip_only(
    length: int, samples: int, seed: int, random: bool
) -> None:
    wave = np.arange(length, dtype=np.float32)
    part = crop(wave, samples, seed=seed, epoch=3, clip="a", random=random)
    assert len(part) == min(length, samples)
    np.testing.assert_array_equal(part, np.arange(part[0], part[0] + len(part)))
    np.testing.assert_array_equal(part, crop(wave, samples, seed=seed, epoch=3, clip="a", random=random))
    if not random and length > samples:
        assert abs(part[0] - (length - samples) / 2) < 1


def test_crops_differ_between_epochs_clips_and_seeds_and_reach_both_ends() -> None:
    wave = np.arange(1_000, dtype=np.float32)

    def start(seed: int, epoch: int, clip: str) -> float:
        return float(crop(wave, 100, seed=seed, epoch=epoch, clip=clip, random=True)[0])

    assert len({start(0, 0, "a"), start(1, 0, "a"), start(0, 1, "a"), start(0, 0, "b")}) == 4
    starts = [start(0, epoch, "a") for epoch in range(1_000)]
    assert min(starts) < 20 and max(starts) > 880 and abs(np.mean(starts) - 450) < 30


def test_crops_in_a_batch_are_random_in_training_and_central_otherwise(
    cuts: CutSet, samples: dict[str, tuple[Path, NDArray[np.int16]]]
) -> None:
    for shuffle in (True, False):
        options = BatchOptions(batch_size=5, crop_s=0.25, shuffle=shuffle)
        for batch in BatchSource(cuts, options).epoch(0):
            for i, name in enumerate(batch.ids):
                values = samples[name][1]
                expected = crop(values.astype(np.float32), 4_000, seed=0, epoch=0, clip=name, random=shuffle)
                np.testing.assert_array_equal(batch.waveforms[i, : batch.lengths[i]] * 32_768, expected)


def test_results_do_not_depend_on_the_cache_and_it_keeps_its_bound(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    made = []
    for i in range(6):  # floating point beyond 16 bits and beyond full scale, at another rate
        soundfile.write(tmp_path / f"{i}.wav", rng.normal(0, 0.4, 8_000), 22_050, subtype="FLOAT")
        made.append(cut(str(i), tmp_path / f"{i}.wav", 5_805))
    bound = 3 * 2 * 5_805
    sources = [
        BatchSource(CutSet(made), BatchOptions(batch_size=2, cache_bytes=n)) for n in (0, bound, 2**20)
    ]
    for epoch in range(2):
        for batches in zip(*(source.epoch(epoch) for source in sources), strict=True):
            for batch in batches[1:]:
                assert_equal(batches[0], batch)
    assert [source._cache.held_bytes // (2 * 5_800) for source in sources] == [0, 3, 6]
    assert sources[1]._cache.held_bytes <= bound


def test_a_kept_clip_is_not_read_again(cuts: CutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    source = BatchSource(cuts, BatchOptions())
    list(source.epoch(0))
    monkeypatch.setattr(waveforms, "load_audio", lambda *_, **__: pytest.fail("read again"))
    list(source.epoch(1))


def test_a_part_of_a_recording_is_read_as_that_part(cuts: CutSet) -> None:
    whole = next(iter(cuts))
    (batch,) = BatchSource(CutSet([whole.truncate(offset=0.02, duration=0.05)]), BatchOptions()).epoch(0)
    expected = load_audio(Path(whole.recording.sources[0].source))[320:1_120]
    np.testing.assert_array_equal(batch.waveforms[0].numpy(), expected)


def test_vote_targets_are_shares_over_the_label_set(cuts: CutSet) -> None:
    source = BatchSource(cuts, BatchOptions(labels=LABELS, targets="votes"))
    assert source.left_out == {"no vote in the label set": 6}
    matrix = source.emotion_target_matrix()
    assert matrix.shape == (24, 3) and matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, np.tile([2 / 3, 1 / 3, 0], (24, 1)), rtol=1e-6)


def test_target_matrix_counts_the_classes(cuts: CutSet) -> None:
    source = BatchSource(cuts, BatchOptions(labels=LABELS))
    assert source.emotion_target_matrix().sum(0).tolist() == [10, 10, 0]


def test_a_label_outside_the_set_names_the_clip(cuts: CutSet) -> None:
    with pytest.raises(
        LabelError, match=r"clip 'clip00' has emotion 'anger'; the label set has neutral, sad"
    ):
        BatchSource(cuts, BatchOptions(labels=LabelSet(("neutral", "sadness"))))


def test_a_transcript_outside_the_vocabulary_names_the_clip(cuts: CutSet) -> None:
    with pytest.raises(LabelError, match=r"clip 'clip00': text 'ab' holds \['b'\]"):
        BatchSource(cuts, BatchOptions(vocabulary=Vocabulary(("a",))))


def test_missing_and_empty_transcripts_are_left_out_and_counted(tmp_path: Path) -> None:
    made = CutSet([cut(str(i), tmp_path / "x", 900, text=text) for i, text in enumerate(["a", None, ""])])
    source = BatchSource(made, BatchOptions(vocabulary=Vocabulary(("a",))))
    assert (len(source), source.left_out) == (1, {"no transcript": 2})
    with pytest.raises(CorpusError, match=r"no clip is left for a batch \(3 with no emotion\)"):
        BatchSource(made, BatchOptions(labels=LABELS))
    with pytest.raises(CorpusError, match="no clips given"):
        BatchSource(CutSet([]), BatchOptions())


@pytest.mark.parametrize(
    "values", [{"batch_size": 0}, {"crop_s": 0.0}, {"crop_s": -1.0}, {"targets": "mean"}, {"buckets": 0}]
)
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        BatchOptions(**values)


def test_a_file_that_cannot_be_decoded_is_an_error_in_its_place(cuts: CutSet, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF but not really")
    source = BatchSource(
        CutSet([*cuts, cut("bad", tmp_path / "bad.wav", 99_999)]), BatchOptions(batch_size=10, shuffle=False)
    )
    batches = source.epoch(0)
    assert [len(next(batches)) for _ in range(3)] == [10, 10, 10]
    with pytest.raises(AudioError, match=r"bad\.wav"):
        next(batches)


def working_ahead() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "next batch"]


def test_items_made_ahead_keep_their_order_and_at_most_two_are_waiting() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            yield i

    for i, item in enumerate(prefetched(items())):
        assert item == i
        assert len(made) <= i + 3
    assert not working_ahead()


def test_the_thread_ends_when_the_consumer_stops(cuts: CutSet) -> None:
    batches = BatchSource(cuts, BatchOptions(batch_size=2)).epoch(0)
    next(batches)
    assert working_ahead()
    del batches
    gc.collect()
    assert not working_ahead()


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VoxstrataError("broken")

    got = prefetched(items())
    assert next(got) == 1
    with pytest.raises(VoxstrataError, match="broken"):
        next(got)
    assert not working_ahead()


def test_batches_of_real_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.environ.get("VOXSTRATA_DATA")
    if not data:
        pytest.skip("VOXSTRATA_DATA is not set: no real recordings here")
    paths = sorted((Path(data) / "RAVDESS" / "Actor_01").iterdir())[:12]
    lengths = [soundfile.info(path).frames for path in paths]
    made = CutSet([cut(path.stem, path, n) for path, n in zip(paths, lengths, strict=True)])
    (batch,) = BatchSource(made, BatchOptions(batch_size=12)).epoch(0)
    for i, reference in enumerate(batch.references):
        audio, _ = soundfile.read(reference.path, dtype="float32")
        np.testing.assert_array_equal(batch.waveforms[i, : batch.lengths[i]].numpy(), audio)
