import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from voxstrata.audio import QUIET, decode, leveled, load_audio, resample, resampled_length
from voxstrata.errors import AudioError


def tone(duration_s: float = 1.0, sample_rate: int = 16_000, hz: float = 440.0) -> np.ndarray:
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_16_khz_pcm_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, 5000).astype(np.int16)
    soundfile.write(tmp_path / f"a{suffix}", samples, 16_000)
    loaded = load_audio(tmp_path / f"a{suffix}")
    assert loaded.dtype == np.float32 and loaded.shape == (5000,)
    np.testing.assert_array_equal(loaded, samples / np.float32(32768))


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(hz=300), tone(hz=700)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)


def test_48_khz_agrees_with_scipy_resampling(tmp_path: Path) -> None:
    original = tone(sample_rate=48_000)
    soundfile.write(tmp_path / "a.wav", original, 48_000, subtype="FLOAT")
    oracle = scipy.signal.resample_poly(original, 1, 3)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav")[200:-200], oracle[200:-200], atol=2e-3)


def test_what_16_khz_cannot_hold_is_filtered_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(sample_rate=48_000, hz=11_000), 48_000, subtype="FLOAT")
    assert np.abs(load_audio(tmp_path / "a.wav")[200:-200]).max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30_000), st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
)
def test_length_is_known_before_resampling(samples: int, sample_rate: int) -> None:
    out = resample(np.zeros(samples, np.float32), sample_rate)
    assert len(out) == resampled_length(samples, sample_rate)
    assert abs(len(out) - samples * 16_000 / sample_rate) <= 0.5


def test_a_stretch_is_the_same_as_a_slice_of_the_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tone(2.0), 16_000)
    whole = load_audio(tmp_path / "a.flac")
    stretch = load_audio(tmp_path / "a.flac", offset_s=0.5, duration_s=0.25)
    np.testing.assert_array_equal(stretch, whole[8_000:12_000])
    assert len(load_audio(tmp_path / "a.flac", offset_s=1.9, duration_s=5)) == 1_600


def test_a_stretch_behind_the_end_or_backwards_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    with pytest.raises(AudioError, match=r"no samples in .*a\.wav from 3 s on"):
        load_audio(tmp_path / "a.wav", offset_s=3)
    with pytest.raises(AudioError, match="asked for"):
        load_audio(tmp_path / "a.wav", offset_s=-1)


@pytest.mark.parametrize("order", [">i2", "<i2"])
def test_raw_is_read_in_either_byte_order(tmp_path: Path, order: str) -> None:
    samples = (tone(hz=150) * 8000).astype(np.int16)
    (tmp_path / "a.raw").write_bytes(samples.astype(order).tobytes())
    np.testing.assert_array_equal(load_audio(tmp_path / "a.raw"), samples / np.float32(32768))


def test_sphere_files_are_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.sph", tone(), 16_000, format="NIST", subtype="PCM_16")
    np.testing.assert_allclose(load_audio(tmp_path / "a.sph"), tone(), atol=1e-4)


def _no_file(path: Path) -> None:
    pass


def _text(path: Path) -> None:
    path.write_text("not audio at all")


def _no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16_000)


def _lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _not_a_number(path: Path) -> None:
    soundfile.write(path, np.array([0.1, np.nan, 0.1]), 16_000, subtype="FLOAT")


def _cut_off_flac(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).normal(size=50_000) * 0.1, 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:40_000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_file, "no file at"),
        (Path.mkdir, "not a file"),
        (_text, "is text, not audio"),
        (_no_samples, "no samples"),
        (_lfs_pointer, "git lfs pull"),
        (_not_a_number, "not finite"),
        (_cut_off_flac, "cannot decode|breaks off"),
    ],
)
def test_unusable_audio_is_one_line(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(tmp_path / "a.wav")
    assert "\n" not in str(caught.value) and "a.wav" in str(caught.value)


def test_raw_of_half_a_sample_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"\0\1\2")
    with pytest.raises(AudioError, match="odd number of bytes"):
        load_audio(tmp_path / "a.raw")


def test_m4a_without_pyav_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0" * 100)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"voxstrata\[av\]"):
        load_audio(tmp_path / "a.m4a")


@pytest.mark.parametrize(
    ("suffix", "codec", "sample_rate"), [(".m4a", "aac", 44_100), (".webm", "libopus", 48_000)]
)
def test_pyav_reads_what_libsndfile_does_not(
    tmp_path: Path, suffix: str, codec: str, sample_rate: int
) -> None:
    av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    path = tmp_path / f"a{suffix}"
    original = tone(1.0, sample_rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sample_rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(original[None], format="flt", layout="mono")
        frame.sample_rate = sample_rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert decode(path)[1] == sample_rate
    loaded = load_audio(path)
    assert 16_000 <= len(loaded) <= 18_000
    middle = np.abs(np.fft.rfft(loaded[4_000:12_000]))
    assert np.argmax(middle) * 2 == 440 and np.abs(loaded[4_000:12_000]).max() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(load_audio(path, offset_s=0.25, duration_s=0.5).shape, [8_000])


def test_a_broken_m4a_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    (tmp_path / "a.m4a").write_bytes(b"\0" * 100)
    with pytest.raises(AudioError, match="cannot decode"):
        load_audio(tmp_path / "a.m4a")


@pytest.mark.parametrize("peak", [32_767.0, 8.0, 1.01, 0.5 * QUIET, 1e-5, 1e-40])
def test_what_16_bits_cannot_hold_comes_at_full_scale(tmp_path: Path, peak: float) -> None:
    original = tone() / np.float32(0.5)
    soundfile.write(tmp_path / "a.wav", original * np.float32(peak), 16_000, subtype="FLOAT")
    loaded = load_audio(tmp_path / "a.wav")
    assert np.abs(loaded).max() == 1 and loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, original / np.abs(original).max(), atol=1e-4)


@pytest.mark.parametrize("peak", [QUIET, 0.01, 0.5, 1])
def test_other_levels_stay_bit_for_bit(tmp_path: Path, peak: float) -> None:
    original = tone(sample_rate=48_000)
    original *= np.float32(peak) / np.abs(original).max()
    original[np.argmax(np.abs(original))] = peak
    soundfile.write(tmp_path / "a.wav", original, 48_000, subtype="FLOAT")
    np.testing.assert_array_equal(leveled(original), original)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), resample(original, 48_000))


SHAPES = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("AIFF", "PCM_16")]


@pytest.mark.parametrize("lost", [2, 10_000])
@pytest.mark.parametrize(("shape", "subtype"), [*SHAPES, ("RIFX", "PCM_16")])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, shape: str, subtype: str, lost: int) -> None:
    path = tmp_path / "a.wav"
    endian, shape = ("BIG", "WAV") if shape == "RIFX" else ("FILE", shape)
    soundfile.write(path, tone(), 16_000, subtype, endian, shape)
    whole = path.read_bytes()
    assert len(decode(path)[0]) == 16_000
    path.write_bytes(whole + b"LIST\4\0\0\0INFO")
    assert len(decode(path)[0]) == 16_000
    sound = whole.index(b"SSND" if shape == "AIFF" else b"data") + 8
    path.write_bytes(whole[: sound + 16_000 * {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype] - lost])
    for read in (decode, load_audio):
        with pytest.raises(AudioError, match=r"a\.wav breaks off: \d+ of \d+ bytes of sound; copy it again"):
            read(path)


@pytest.mark.parametrize("size", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_stream_that_did_not_know_its_length_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16_000)
    content = bytearray(path.read_bytes())
    place = content.index(b"data")
    content[place + 4 : place + 8] = content[4:8] = struct.pack("<I", size)
    path.write_bytes(content)
    assert len(load_audio(path)) == 16_000


def test_room_behind_a_length_of_0_is_no_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    content = (tmp_path / "a.wav").read_bytes()
    for behind in (bytes(100), b"LIST\4\0\0\0INFO"):
        (tmp_path / "a.wav").write_bytes(content + behind)
        with pytest.raises(AudioError, match="no samples"):
            load_audio(tmp_path / "a.wav")


def test_a_padding_byte_may_be_missing_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 801), 16_000, subtype="PCM_U8")
    content = path.read_bytes()[: 44 + 801]
    for size in (801, 802):
        path.write_bytes(content[:40] + struct.pack("<I", size) + content[44:])
        assert len(load_audio(path)) == 801


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux only")
def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    (tmp_path / "a.wav").rename(path)
    assert len(load_audio(path)) == 16_000


def test_reading_audio_costs_no_torch() -> None:
    code = "import sys, voxstrata.audio, voxstrata.corpora.readers; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
