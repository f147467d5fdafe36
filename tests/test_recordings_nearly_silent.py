"""Recordings with hardly anything to hear: clicks, noise of the last bit, rates that no recorder has."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxstrata.audio import NoSound, load_audio, load_with_remarks
from voxstrata.corpora.faults import inspect_audio
from voxstrata.errors import AudioError
from voxstrata.inference.given import heard

RATE = 16_000
STEP = 2.0**-15
RNG = np.random.default_rng(0)


def written(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def clicks(count: int, *, length: int = 2 * RATE, rest: float = 0.0) -> np.ndarray:
    samples = np.full(length, rest)
    samples[:: length // count] = 0.8
    return samples


@pytest.mark.parametrize("rest", [0.0, 0.25])
@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_clicks_in_silence_are_silence(tmp_path: Path, count: int, rest: float, subtype: str) -> None:
    path = written(tmp_path / "a.wav", clicks(count, rest=rest), subtype=subtype)
    with pytest.raises(NoSound, match=r"samples are silent in .*a\.wav: clicks, but no speech"):
        load_audio(path)
    found = inspect_audio(path)
    assert found.fault is not None and found.fault[0] == "empty"
    with pytest.raises(NoSound, match="silent in the array: clicks, but no speech"):
        heard(clicks(count, rest=rest), RATE)


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_sound_of_25_ms_in_all_is_heard(tmp_path: Path, rate: int) -> None:
    samples, some = np.zeros(2 * rate), round(0.025 * rate)
    samples[rate : rate + some] = RNG.normal(size=some) * 0.1
    assert len(load_audio(written(tmp_path / "a.wav", samples, rate))) == 2 * RATE
    samples[rate : rate + some // 5] = 0
    with pytest.raises(NoSound):
        load_audio(written(tmp_path / "a.wav", samples, rate))


def test_short_recordings_are_left_to_who_asks_for_a_length(tmp_path: Path) -> None:
    assert len(load_audio(written(tmp_path / "a.wav", RNG.normal(size=100) * 0.1))) == 100
    assert len(heard(np.float32([0.1, -0.2, 0.3]), RATE)[0]) == 3


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_noise_of_the_last_bits_is_marked(tmp_path: Path, steps: int, subtype: str) -> None:
    noise = RNG.integers(-steps, steps + 1, 2 * RATE) * STEP
    path = written(tmp_path / "a.wav", noise, subtype=subtype)
    kinds = {remark.kind: remark.detail for remark in load_with_remarks(path)[1]}
    assert f"its samples take {2 * steps + 1} different values" in kinds["few different values"]
    assert "few different values" in {remark.kind for remark in inspect_audio(path).remarks}


def test_clicks_over_such_noise_and_a_wave_cut_to_two_values_are_marked(tmp_path: Path) -> None:
    noisy = np.where(clicks(5) > 0, 0.8, RNG.integers(-1, 2, 2 * RATE) * STEP)
    square = 0.5 * np.sign(np.sin(np.arange(2 * RATE) / 7 + 0.1))
    for samples in (noisy, square):
        (remark,) = [
            one
            for one in load_with_remarks(written(tmp_path / "a.wav", samples))[1]
            if one.kind == "few different values"
        ]
        assert "different values" in remark.detail


@pytest.mark.parametrize("peak", [2.0**-20, 16 * STEP, 32 * STEP, 1e-3, 1.0])
def test_real_speech_is_heard_however_quiet(real_data: Path, tmp_path: Path, peak: float) -> None:
    paths = [
        *sorted((real_data / "RAVDESS").rglob("*.flac"))[:4],
        *sorted((real_data / "TESS").rglob("*.flac"))[:4],
        *sorted((real_data / "LibriSpeech").rglob("*.flac"))[:4],
    ]
    assert paths
    for path in paths:
        samples = load_audio(path)
        samples = samples / np.abs(samples).max() * peak
        # Below the steps of 16 bits there are floats alone.
        subtype = "FLOAT" if peak < STEP else "PCM_16"
        quiet, remarks = load_with_remarks(written(tmp_path / "a.wav", samples, subtype=subtype))
        assert "few different values" not in {remark.kind for remark in remarks}, path
        assert abs(np.corrcoef(quiet, samples)[0, 1]) > 0.9


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_real_speech_of_a_few_steps_is_marked_and_heard(real_data: Path, tmp_path: Path, steps: int) -> None:
    for path in sorted((real_data / "TESS").rglob("*.flac"))[:3]:
        samples = load_audio(path)
        samples = samples / np.abs(samples).max() * steps * STEP
        quiet, remarks = load_with_remarks(written(tmp_path / "a.wav", samples))
        assert len(quiet) == len(samples) and "few different values" in {remark.kind for remark in remarks}


def test_real_speech_behind_a_loud_click_is_heard(real_data: Path, tmp_path: Path) -> None:
    samples = load_audio(sorted((real_data / "TESS").rglob("*.flac"))[0])
    samples = samples / np.abs(samples).max() * 32 * STEP
    samples[100] = 0.99
    assert len(load_audio(written(tmp_path / "a.wav", samples))) == len(samples)


@pytest.mark.parametrize("rate", [384_001, 655_350, 2_000_000, 1_999])
def test_a_rate_that_no_recorder_has_is_a_fault_of_the_header(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path / "a.wav", RNG.normal(size=2 * RATE) * 0.1)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=rf"says that it has {rate:,} samples a second.*2,000 to 384,000"):
        load_audio(path)
    with pytest.raises(AudioError, match="2,000 to 384,000"):
        heard(np.ones(100), rate)
    assert inspect_audio(path).fault is not None


@pytest.mark.parametrize("rate", [96_000, 192_000, 352_800, 384_000])
def test_rates_of_recorders_are_read(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path / "a.wav", RNG.normal(size=rate // 2) * 0.1, rate)
    assert len(load_audio(path)) == RATE // 2


def test_flac_at_the_highest_rate_it_can_claim_is_refused() -> None:
    file = io.BytesIO()
    soundfile.write(file, RNG.normal(size=RATE) * 0.1, 655_350, format="FLAC")
    with pytest.raises(AudioError, match="655,350 samples a second"):
        heard(file.getvalue())
