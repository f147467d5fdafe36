"""What a recording holds: silence, channels that cancel each other, a narrow band."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
from typer.testing import CliRunner

from voxstrata.audio import NoSound, downmix, load_audio, load_with_remarks, remarks_on_band
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.cli.main import app
from voxstrata.corpora.faults import inspect_audio
from voxstrata.corpora.prepare import prepare

RATE = 16_000
RNG = np.random.default_rng(0)
VOICE = (np.cumsum(RNG.normal(size=2 * RATE)) % 1 - 0.5).astype(np.float32)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(RATE), np.zeros((RATE, 2)), np.full(RATE, 0.25), np.full((RATE, 2), -0.5), np.zeros(0)],
)
def test_silence_is_refused_in_files_stretches_and_corpora_alike(tmp_path: Path, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    with pytest.raises(NoSound, match=r"a\.wav"):
        load_audio(tmp_path / "a.wav")
    found = inspect_audio(tmp_path / "a.wav")
    assert found.fault is not None and found.fault[0] == "empty"


def test_a_silent_stretch_of_a_recording_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.concatenate([VOICE, np.zeros(RATE)]), RATE)
    assert len(load_audio(tmp_path / "a.wav", offset_s=1.5)) == 1.5 * RATE
    with pytest.raises(NoSound, match="from 2 s on"):
        load_audio(tmp_path / "a.wav", offset_s=2)


@pytest.mark.parametrize("added", [0.0, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_channels_that_cancel_each_other_are_heard_as_one_of_them(
    tmp_path: Path, added: float, offset: float
) -> None:
    other = -VOICE + added * RNG.normal(size=len(VOICE)) + offset
    stereo = np.stack([VOICE + offset, other], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    mono, (remark,) = load_with_remarks(tmp_path / "a.wav")
    # Mono from the loudest of both; either is the recording.
    assert abs(np.corrcoef(mono, VOICE)[0, 1]) > 0.99
    assert remark.kind == "channels cancel each other" and "of 2 is used" in remark.detail
    assert inspect_audio(tmp_path / "a.wav").fault is None


@pytest.mark.parametrize(
    "stereo",
    [
        np.stack([VOICE, VOICE], axis=1),
        np.stack([VOICE, 0 * VOICE], axis=1),
        np.stack([VOICE[::-1], VOICE], axis=1),
        np.stack([VOICE, *np.zeros((7, len(VOICE)), np.float32)], axis=1),
    ],
    ids=["same", "one silent", "independent", "one of eight"],
)
def test_other_channels_are_averaged(stereo: np.ndarray) -> None:
    mono, remarks = downmix(stereo.astype(np.float32))
    np.testing.assert_allclose(mono, stereo.mean(axis=1), atol=1e-6)
    assert remarks == ()


def test_channels_as_large_as_floats_go_stay_finite() -> None:
    loud = np.float32([[3e38, 3e38], [-3e38, -3e38], [1e38, 2e38]])
    mono, _ = downmix(loud)
    np.testing.assert_allclose(mono, loud.astype(np.float64).mean(axis=1), rtol=1e-6)


def speech_like(rate: int) -> np.ndarray:
    """Two seconds with the slope of speech: 6 dB an octave, to half the rate."""
    white = np.random.default_rng(1).normal(size=2 * rate)
    return 0.1 * scipy.signal.lfilter([1], [1, -0.9], white)


def test_a_copy_at_8_khz_is_a_narrow_band_and_the_recording_is_not(tmp_path: Path) -> None:
    wide = speech_like(RATE)
    copy = scipy.signal.resample_poly(wide, 1, 2)
    again = scipy.signal.resample_poly(copy, 2, 1, window=("kaiser", 12.0))
    lower = scipy.signal.resample_poly(speech_like(48_000), 1, 4)
    for name, samples, rate, cutoff in (
        ("wide", wide, RATE, None),
        ("high", speech_like(48_000), 48_000, None),
        ("copy", copy, 8_000, "4 kHz"),
        ("lower", lower, 12_000, "6 kHz"),
        ("gsm", copy, 8_000, "4 kHz"),
    ):
        subtype = "GSM610" if name == "gsm" else "PCM_16"
        soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype=subtype)
        # As `prepare` sees the file, and `predict` what is heard of it.
        for remarks in (
            inspect_audio(tmp_path / f"{name}.wav").remarks,
            remarks_on_band(load_audio(tmp_path / f"{name}.wav")),
        ):
            told = [remark.detail for remark in remarks if remark.kind == "narrow band"]
            assert bool(told) == (cutoff is not None) and all(f"above {cutoff}" in detail for detail in told)
    sharp = scipy.signal.sosfiltfilt(scipy.signal.butter(20, 3_900, fs=RATE, output="sos"), again)
    soundfile.write(tmp_path / "upsampled.wav", sharp, RATE)
    assert remarks_on_band(load_audio(tmp_path / "upsampled.wav"))


def test_real_recordings_are_wide_and_their_copies_narrow(real_data: Path, tmp_path: Path) -> None:
    paths = [
        *sorted((real_data / "RAVDESS" / "Actor_24").iterdir())[:5],
        *sorted(path for path in (real_data / "AN4" / "wav").rglob("*.*") if path.is_file())[:5],
        *sorted((real_data / "LibriSpeech").rglob("*.flac"))[:5],
    ]
    for path in paths:
        wide = load_audio(path)
        assert remarks_on_band(wide) == (), path
        soundfile.write(tmp_path / "copy.wav", scipy.signal.resample_poly(wide, 1, 2), 8_000)
        assert remarks_on_band(load_audio(tmp_path / "copy.wav")), path


def test_prepare_counts_what_one_should_know(tmp_path: Path) -> None:
    wide = speech_like(RATE)
    soundfile.write(tmp_path / "wide.wav", wide, RATE)
    soundfile.write(tmp_path / "copy.wav", scipy.signal.resample_poly(wide, 1, 2), 8_000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([wide[::-1], -wide[::-1]], axis=1), RATE)
    (tmp_path / "t.csv").write_text("path\nwide.wav\ncopy.wav\nstereo.wav\n")
    prepared = prepare("table", tmp_path / "t.csv", tmp_path / "out")
    assert any(note.startswith("narrow band: 1 of 3 recordings, such as t/copy") for note in prepared.notes)
    assert any(note.startswith("channels cancel each other: 1 of 3") for note in prepared.notes)
    (batch,) = BatchSource(prepared.stream(), BatchOptions(shuffle=False)).epoch(0)
    (stereo,) = [k for k, name in enumerate(batch.ids) if name == "t/stereo"]
    assert np.abs(batch.waveforms[stereo].numpy()).max() > 0.05


def test_predict_marks_a_narrow_band_and_refuses_silence(encoder_folder, tmp_path: Path) -> None:
    import torch

    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.labels import LabelSet
    from voxstrata.methods.encoder_models import EmotionModel
    from voxstrata.methods.model_folder import save_model

    torch.manual_seed(0)
    save_model(EmotionModel(load_backbone(encoder_folder), LabelSet(("anger", "joy"))), tmp_path / "model")
    wide = speech_like(RATE)
    soundfile.write(tmp_path / "wide.wav", wide, RATE)
    soundfile.write(tmp_path / "copy.wav", scipy.signal.resample_poly(wide, 1, 2), 8_000)
    soundfile.write(tmp_path / "zeros.wav", np.zeros(2 * RATE), RATE)
    names = [str(tmp_path / f"{name}.wav") for name in ("wide", "copy", "zeros")]
    run = ["predict", *names, "--model", str(tmp_path / "model")]
    done = CliRunner().invoke(app, [*run, "--json"])
    assert done.exit_code == 3
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["note" in row for row in rows] == [False, True, False]
    assert ["error" in row for row in rows] == [False, False, True]
    assert rows[1]["note"].startswith("narrow band") and rows[1]["emotion"] and "silence" in rows[2]["error"]
    assert "note: narrow band" in CliRunner().invoke(app, run).stdout
