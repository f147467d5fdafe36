"""A click, or one sample of any size, changes neither the level of a recording nor which of it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.audio import NoSound, load_audio, load_with_remarks, read_sound
from voxstrata.audio.clicks import without_clicks
from voxstrata.corpora.faults import inspect_audio
from voxstrata.corpora.prepare import prepare
from voxstrata.inference.given import heard

RATE = 16_000
RNG = np.random.default_rng(0)
TIME = np.arange(2 * RATE) / RATE
#: Syllables of a voice of 150 Hz, with a peak of 0.02.
VOICE = (
    np.sin(2 * np.pi * 150 * TIME + 2 * np.sin(2 * np.pi * 450 * TIME)) * np.sin(2 * np.pi * 2 * TIME) ** 2
)
VOICE = (0.02 * VOICE + 1e-4 * RNG.normal(size=len(TIME))).astype(np.float32)


def written(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def clicked(samples: np.ndarray, places: object, values: object) -> np.ndarray:
    samples = samples.copy()
    samples[places] = values
    return samples


CLICKS = {
    "one": clicked(VOICE, 5000, 0.999),
    "first and last": clicked(VOICE, [0, -1], [1, -1]),
    "fifty": clicked(VOICE, RNG.integers(0, len(VOICE), 50), -0.9),
    "5 ms": clicked(VOICE, slice(9000, 9080), 0.9 * RNG.choice([-1, 1], 80)),
    "20 ms": clicked(VOICE, slice(9000, 9320), 0.9),
    "over full scale": clicked(VOICE, 5000, 3.0),
    "1e30": clicked(VOICE, 5000, 1e30),
    "largest": clicked(VOICE, [5000, 5001], [3.4e38, -3.4e38]),
}


@pytest.mark.parametrize("name", CLICKS)
@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_a_quiet_recording_with_clicks_is_the_recording_without(
    tmp_path: Path, name: str, offset: float
) -> None:
    expected = load_audio(written(tmp_path / "a.wav", VOICE + np.float32(offset)))
    samples = CLICKS[name].astype(np.float64) + offset
    found, remarks = load_with_remarks(written(tmp_path / "b.wav", samples.astype(np.float32)))
    changed = CLICKS[name] != VOICE
    np.testing.assert_array_equal(found[~changed], expected[~changed])
    assert np.abs(found - offset).max() < 0.04
    (remark,) = remarks
    assert remark.kind == "clicks" and remark.detail.startswith(
        f"{changed.sum()} of 32,000 samples stand far"
    )
    assert "\n" not in str(remark)


@pytest.mark.parametrize("rate", [8_000, 44_100, 384_000])
@pytest.mark.parametrize("peak", [1e-4, 1e-3, 0.02])
def test_a_full_scale_sample_leaves_the_level_at_any_rate(tmp_path: Path, rate: int, peak: float) -> None:
    time = np.arange(rate) / rate
    tone = peak * np.sin(2 * np.pi * 200 * time)
    expected = load_audio(written(tmp_path / "a.wav", tone, rate))
    found = load_audio(written(tmp_path / "b.wav", clicked(tone, rate // 3, 1.0), rate))
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("encoder_name", ["whisper-tiny.en", "wavlm-tiny"])
@pytest.mark.parametrize("name", ["one", "fifty", "5 ms", "1e30"])
def test_states_of_an_encoder_stay_close(tmp_path: Path, encoder_name: str, name: str) -> None:
    from voxstrata.backbone.encoder import load_backbone

    encoder = load_backbone(encoder_name)
    states = []
    for samples in (VOICE, CLICKS[name]):
        wave = torch.from_numpy(load_audio(written(tmp_path / "a.wav", samples)))
        with torch.no_grad():
            states.append(encoder(wave[None], torch.tensor([len(wave)])).layers[-1].flatten())
    assert torch.nn.functional.cosine_similarity(*states, dim=0) > 0.98


@given(st.integers(0, len(VOICE) - 1), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_whatever_one_sample_holds_all_others_stay(place: int, value: float) -> None:
    found = without_clicks(clicked(VOICE, place, np.float32(value)), RATE)
    others = np.arange(len(VOICE)) != place
    np.testing.assert_array_equal(found[others], VOICE[others])
    assert abs(float(found[place])) < 0.64


def test_real_recordings_have_no_clicks(real_data: Path) -> None:
    paths = [
        *sorted((real_data / "RAVDESS").rglob("*.flac"))[::60],
        *sorted((real_data / "TESS").rglob("*.flac"))[::60],
        *sorted((real_data / "LibriSpeech").rglob("*.flac"))[::20],
        *sorted(path for path in (real_data / "AN4" / "wav").rglob("*-b.*"))[::40],
    ]
    assert len(paths) > 50
    for path in paths:
        sound = read_sound(path)
        for channel in sound.samples.T:
            assert without_clicks(channel, sound.sample_rate) is channel, path


@pytest.mark.parametrize("value", [0.9, 1e30])
@pytest.mark.parametrize("noise", [0.0, 1e-9])
@pytest.mark.parametrize("channels", [1, 2])
def test_silence_with_a_click_is_still_silence(
    tmp_path: Path, value: float, noise: float, channels: int
) -> None:
    silence = noise * RNG.normal(size=(2 * RATE, channels))
    path = written(tmp_path / "a.wav", clicked(silence, (5000, 0), value))
    with pytest.raises(NoSound, match="clicks, but no speech"):
        load_audio(path)
    found = inspect_audio(path)
    assert found.fault is not None and found.fault[0] == "empty"


@pytest.mark.parametrize("value", [0.9, 1e30])
@pytest.mark.parametrize("channel", [0, 1])
def test_clicks_hide_no_channels_that_cancel_each_other(tmp_path: Path, value: float, channel: int) -> None:
    stereo = clicked(np.stack([VOICE, -VOICE], axis=1), (5000, channel), value)
    mono, remarks = load_with_remarks(written(tmp_path / "a.wav", stereo))
    assert abs(np.corrcoef(mono, VOICE)[0, 1]) > 0.99
    assert [remark.kind for remark in remarks] == ["channels cancel each other", "clicks"]
    # In loud speech a click is none that is taken out, and yet decides nothing.
    loud = 30 * np.stack([VOICE, -VOICE], axis=1)
    mono, (remark,) = load_with_remarks(
        written(tmp_path / "a.wav", clicked(loud, (slice(9000, 9080), channel), 0.9))
    )
    assert abs(np.corrcoef(mono, VOICE)[0, 1]) > 0.9 and remark.kind == "channels cancel each other"


@pytest.mark.parametrize("value", [0.9, 1e30])
def test_a_channel_with_nothing_but_a_click_adds_none(tmp_path: Path, value: float) -> None:
    stereo = np.stack([VOICE, clicked(0 * VOICE, 5000, value)], axis=1)
    mono, (remark,) = load_with_remarks(written(tmp_path / "a.wav", stereo))
    np.testing.assert_allclose(mono, VOICE / 2, atol=1e-3)
    assert remark.kind == "clicks"


def test_a_word_between_clicks_in_a_long_silence_is_heard(tmp_path: Path) -> None:
    samples = np.zeros(10 * RATE, np.float32)
    samples[5 * RATE : 5 * RATE + 1600] = VOICE[3000:4600]
    found = load_audio(written(tmp_path / "a.wav", clicked(samples, slice(None, None, 20_001), 0.9)))
    np.testing.assert_allclose(found, samples, atol=0.02)


def test_prepare_counts_recordings_with_clicks_and_arrays_are_as_files(tmp_path: Path) -> None:
    written(tmp_path / "plain.wav", VOICE)
    written(tmp_path / "clicked.wav", CLICKS["1e30"])
    (tmp_path / "t.csv").write_text("path\nplain.wav\nclicked.wav\n")
    prepared = prepare("table", tmp_path / "t.csv", tmp_path / "out")
    assert any(
        note.startswith("clicks: 1 of 2 recordings, such as t/clicked: 1 of 32,000")
        for note in prepared.notes
    )
    assert not any("over full scale" in note for note in prepared.notes)
    mono, remarks, _ = heard(CLICKS["1e30"], RATE)
    np.testing.assert_array_equal(mono, load_audio(tmp_path / "clicked.wav"))
    assert [remark.kind for remark in remarks] == ["clicks"]


@pytest.mark.parametrize("gain", [1e-5, 1e-3, 8.0, 32_767.0])
def test_clicks_are_the_same_at_any_gain(gain: float) -> None:
    found = without_clicks(CLICKS["fifty"] * np.float32(gain), RATE)
    np.testing.assert_allclose(
        found, without_clicks(CLICKS["fifty"], RATE) * gain, rtol=1e-4, atol=1e-9 * gain
    )
    assert np.abs(found).max() < 0.04 * gain


@pytest.mark.parametrize("hz", [60, 100, 300])
def test_the_pulses_of_a_voice_are_no_clicks(hz: int) -> None:
    pulses = 1e-3 * RNG.normal(size=2 * RATE).astype(np.float32)
    pulses[:: RATE // hz] += 0.5
    assert without_clicks(pulses, RATE) is pulses
