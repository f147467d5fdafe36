"""Augmentation: what is changed by how much, and that labels in time follow."""

from __future__ import annotations

import numpy as np
import pytest

from voxstrata.batches.augment import (
    Augmentation,
    augment,
    changed,
    reverberated,
    stretched,
    with_noise,
)

RATE = 16_000


def tone(hz: float, seconds: float = 2.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def frequency(samples: np.ndarray) -> float:
    """The strongest frequency of the middle half, in Hz."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 18))
    return float(np.argmax(spectrum)) * RATE / (1 << 18)


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("hz", [150.0, 1000.0])
def test_stretching_changes_the_length_and_not_the_pitch(factor: float, hz: float) -> None:
    longer = stretched(tone(hz), factor)
    assert len(longer) == round(2 * RATE * factor)
    assert frequency(longer) == pytest.approx(hz, rel=0.01)
    assert 0.5 < float(np.std(longer)) < 0.9


def test_stretching_by_one_gives_the_waveform_back() -> None:
    wave = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    np.testing.assert_allclose(stretched(wave, 1.0)[600:-600], wave[600:-600], atol=1e-3)


@pytest.mark.parametrize(("tempo", "pitch"), [(1.2, 1.0), (0.8, 1.1), (1.0, 0.9)])
def test_tempo_and_pitch_are_independent(tempo: float, pitch: float) -> None:
    made = changed(tone(400), tempo=tempo, pitch=pitch)
    assert len(made) == pytest.approx(2 * RATE / tempo, rel=0.001)
    assert frequency(made) == pytest.approx(400 * pitch, rel=0.01)


def test_an_event_is_found_where_the_tempo_says() -> None:
    wave = np.zeros(3 * RATE, np.float32)
    wave[RATE : RATE + 800] = tone(500, 0.05)
    options = Augmentation(tempo=0.3, pitch=2)
    tempi = []
    for seed in range(5):
        made = augment(wave, options, np.random.default_rng(seed))
        tempi.append(made.tempo)
        centre = np.average(np.arange(len(made.clean)), weights=made.clean**2) / RATE
        assert centre == pytest.approx(1.025 / made.tempo, abs=0.02)
        assert len(made.samples) == len(made.clean)
    assert min(tempi) < 0.95 and max(tempi) > 1.05


def test_noise_has_the_level_that_was_asked_for() -> None:
    wave = tone(300)
    noise = with_noise(wave, 12.0, np.random.default_rng(1)) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(12.0, abs=0.05)


def test_an_echo_leaves_the_direct_sound_in_its_place() -> None:
    click = np.zeros(RATE, np.float32)
    click[4000] = 1
    heard = reverberated(click, np.random.default_rng(2))
    assert len(heard) == RATE and not heard[:3999].round(5).any()
    assert int(np.argmax(np.abs(heard))) == 4000 and heard[4000] == pytest.approx(1, abs=1e-5)
    assert float(np.sum(heard[4001:] ** 2)) > 0.05


def test_the_same_stream_gives_the_same_and_nothing_asked_for_changes_nothing() -> None:
    wave = tone(200) + tone(1000)
    options = Augmentation(tempo=0.1, pitch=1, noise=0.5, reverb=0.5)
    one, two = (augment(wave, options, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.samples, two.samples)
    still = augment(wave, Augmentation(), np.random.default_rng(3))
    np.testing.assert_array_equal(still.samples, wave)
    assert still.tempo == 1


def test_tempo_and_pitch_of_a_clip_do_not_depend_on_what_else_is_asked_for() -> None:
    wave, moved = tone(200) + tone(1000), {"tempo": 0.2, "pitch": 2.0}
    for seed in range(3):
        plain = augment(wave, Augmentation(**moved), np.random.default_rng(seed))
        noisy = augment(wave, Augmentation(**moved, noise=1.0, reverb=1.0), np.random.default_rng(seed))
        np.testing.assert_array_equal(plain.clean, noisy.clean)
        assert not np.array_equal(plain.samples, noisy.samples)


@pytest.mark.parametrize(
    "wrong", [{"noise": 1.5}, {"reverb": -0.1}, {"tempo": 2}, {"pitch": 20}, {"noise_db": (9, 1)}]
)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)
