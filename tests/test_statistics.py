"""The yardstick: its features hear what it is said to hear, and its answers are scikit-learn's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from voxstrata.batches.batch import Batch, Reference
from voxstrata.errors import RecipeError
from voxstrata.labels import LabelSet
from voxstrata.methods.baselines.statistics import clip_statistics, per_speaker, svm_answers

LABELS = LabelSet(("high", "low"))


def tones(seed: int, clips: int = 12) -> Batch:
    """Harmonics at a high or a low pitch in noise, of unequal lengths, by two speakers."""
    rng = np.random.default_rng(seed)
    lengths = torch.tensor([int(n) for n in rng.integers(4000, 9000, clips)])
    waves = torch.zeros(clips, 9000)
    references = []
    for row, length in enumerate(lengths.tolist()):
        high = row % 2 == 0
        pitch = (220 if high else 110) * rng.uniform(0.9, 1.1)
        time = np.arange(length) / 16_000
        wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
        waves[row, :length] = torch.from_numpy(0.05 * wave + 0.001 * rng.standard_normal(length)).float()
        emotion = "high" if high else "low"
        references.append(Reference(f"{seed}-{row}", speaker=f"s{row % 4 // 2}", emotion=emotion))
    return Batch(tuple(references), waves, lengths)


def test_a_clip_has_the_same_statistics_alone_and_padded() -> None:
    batch = tones(0)
    references, rows = clip_statistics([batch])
    assert rows.shape == (12, 284) and references == list(batch.references)
    length = int(batch.lengths[3])
    alone = Batch(batch.references[3:4], batch.waveforms[3:4, :length], batch.lengths[3:4])
    np.testing.assert_array_equal(clip_statistics([alone])[1][0], rows[3])


def test_speakers_are_normalised_apart() -> None:
    references, rows = clip_statistics([tones(0)])
    normalised = per_speaker(references, rows)
    for speaker in ("s0", "s1"):
        own = normalised[[reference.speaker == speaker for reference in references]]
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-6)
        assert own.std(0).max() < 1.01


@pytest.mark.parametrize("speaker_normalized", [False, True])
def test_the_svm_tells_two_pitches_apart(speaker_normalized: bool) -> None:
    answers = svm_answers(
        [tones(0), tones(1)], {"test": [tones(2)]}, LABELS, speaker_normalized=speaker_normalized
    )["test"]
    assert [answer.id for answer in answers] == [f"2-{row}" for row in range(12)]
    assert [answer.emotion for answer in answers] == [answer.reference_emotion for answer in answers]


def test_egemaps_are_opensmiles_own_of_each_clip_alone() -> None:
    opensmile = pytest.importorskip("opensmile")
    batch = tones(0)
    _, rows = clip_statistics([batch], "egemaps")
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )
    wave = batch.waveforms[3, : int(batch.lengths[3])].numpy()
    assert rows.shape == (12, 88)
    np.testing.assert_array_equal(rows[3], np.nan_to_num(smile.process_signal(wave, 16_000).to_numpy()[0]))
    answers = svm_answers([tones(0), tones(1)], {"test": [tones(2)]}, LABELS, features="egemaps", gamma=0.01)
    assert [row.emotion for row in answers["test"]] == [row.reference_emotion for row in answers["test"]]


def test_egemaps_without_opensmile_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(RecipeError, match=r"research use only; install voxstrata\[egemaps\], or take"):
        clip_statistics([tones(0)], "egemaps")
