"""What a recording's header claims against what it holds; what its name claims against its content."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxstrata.audio import load_audio, load_with_remarks, read_sound
from voxstrata.errors import AudioError

RATE = 16_000


def noise(samples: int = RATE) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=samples) * 3000).astype(np.int16)


def header_says(path: Path, shape: str, claimed: int) -> None:
    """Noise of a second in a file whose header claims so many bytes of it."""
    soundfile.write(path, noise(), RATE, format=shape, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    name, size, extra = {
        "WAV": (b"data", "<I", 0),
        "WAVEX": (b"data", "<I", 0),
        "AIFF": (b"SSND", ">I", 8),
        "W64": (b"data", "<Q", 24),
        "CAF": (b"data", ">Q", 4),
    }[shape]
    place = content.index(name) + (16 if shape == "W64" else 4)
    struct.pack_into(size, content, place, claimed + extra)
    path.write_bytes(content)


@pytest.mark.parametrize("claimed", [0, 3200])
@pytest.mark.parametrize("shape", ["WAV", "WAVEX", "AIFF", "W64", "CAF"])
def test_a_recorder_that_died_before_it_told_the_length_loses_nothing(
    tmp_path: Path, shape: str, claimed: int
) -> None:
    header_says(tmp_path / "a.wav", shape, claimed)
    loaded, remarks = load_with_remarks(tmp_path / "a.wav")
    np.testing.assert_array_equal(loaded, noise() / np.float32(32768))
    (remark,) = remarks
    assert remark.kind == "header" and f"declares {claimed} of 32000 bytes" in remark.detail


@pytest.mark.parametrize(
    "behind",
    [
        b"LIST\4\0\0\0INFO",
        b"abcd\4\0\0\0\1\2\3\4" * 500,
        b"_PMX" + struct.pack("<I", 20_000) + b"a" * 9_000,
        b"TAG" + b"a" * 125,
        bytes(20_000),
    ],
    ids=["chunk", "many chunks", "a tag that breaks off", "ID3v1", "room"],
)
def test_what_stands_behind_the_sound_and_is_none_is_not_heard(tmp_path: Path, behind: bytes) -> None:
    soundfile.write(tmp_path / "a.wav", noise(), RATE)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes() + behind)
    loaded, remarks = load_with_remarks(tmp_path / "a.wav")
    assert len(loaded) == RATE and remarks == ()


@pytest.mark.parametrize(
    ("shape", "subtype"),
    [
        ("WAV", "GSM610"),
        ("WAV", "G721_32"),
        ("WAV", "NMS_ADPCM_32"),
        ("WAV", "IMA_ADPCM"),
        ("AIFF", "GSM610"),
        ("AU", "G723_40"),
        ("W64", "MS_ADPCM"),
        ("CAF", "ALAC_16"),
    ],
)
def test_codecs_that_cannot_seek_or_count_are_decoded(tmp_path: Path, shape: str, subtype: str) -> None:
    time = np.arange(2 * RATE) / RATE
    soundfile.write(
        tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), RATE, format=shape, subtype=subtype
    )
    loaded = load_audio(tmp_path / "a.wav")
    # An encoder fills its last block.
    assert 2 * RATE <= len(loaded) <= 2 * RATE + 1024
    assert np.argmax(np.abs(np.fft.rfft(loaded[8_000:24_000]))) == 440
    stretch = load_audio(tmp_path / "a.wav", offset_s=0.5, duration_s=0.25)
    np.testing.assert_allclose(stretch, loaded[8_000:12_000], atol=0.02)


def test_a_flac_stream_of_unknown_length_is_read_and_a_false_claim_is_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    place = content.index(b"fLaC") + 21  # the sample count in STREAMINFO, its upper four bits here
    content[place : place + 5] = bytes([content[place] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "a.flac").write_bytes(content)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.flac"), noise() / np.float32(32768))
    np.testing.assert_array_equal(
        load_audio(tmp_path / "a.flac", offset_s=0.25, duration_s=0.5),
        noise()[4000:12000] / np.float32(32768),
    )
    content[place : place + 5] = bytes([content[place] | 1, 0, 0, 0, 0])
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(AudioError, match=f"breaks off, or is damaged, after 16000 of {2**32} samples"):
        load_audio(tmp_path / "a.flac")


def encode(path: Path, codec: str, rate: int, *, bits: int = 0, seconds: int = 2, **options: str) -> None:
    """Noise in a container that FFmpeg writes."""
    av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    samples = noise(rate * seconds).astype(np.float32)[None] / 32768
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        if bits:
            stream.bit_rate = bits
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = rate
        shape = {"libmp3lame": 1152, "aac": 1024, "libopus": 960}.get(codec, 1024)
        resampler = av.AudioResampler(format=stream.codec_context.format.name, frame_size=shape)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


CONTAINERS = [
    ("a.mp3", "libmp3lame", 44_100),
    ("a.m4a", "aac", 44_100),
    ("a.opus", "libopus", 48_000),
    ("a.webm", "libopus", 48_000),
    ("a.mka", "pcm_s16le", 16_000),
    ("a.aac", "aac", 44_100),
    ("a.wv", "wavpack", 44_100),
]


@pytest.mark.parametrize(("name", "codec", "rate"), CONTAINERS)
def test_whole_is_read_under_any_name_and_half_is_told(
    tmp_path: Path, name: str, codec: str, rate: int
) -> None:
    encode(tmp_path / name, codec, rate)
    whole = load_audio(tmp_path / name)
    assert len(whole) == pytest.approx(2 * RATE, abs=0.1 * RATE)
    content = (tmp_path / name).read_bytes()
    for other in (".wav", ".mp3", ".mp4", ".flac", ".raw" if name != "a.aac" and name != "a.mp3" else ".wav"):
        (tmp_path / f"called{other}").write_bytes(content)
        np.testing.assert_array_equal(load_audio(tmp_path / f"called{other}"), whole)
    for share in (0.5, 0.77):
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(AudioError, match=r"breaks off.*copy it again") as told:
            load_audio(tmp_path / name)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("shape", "subtype"),
    [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16"), ("AU", "PCM_16"),
     ("NIST", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("RF64", "PCM_16")],
)  # fmt: skip
def test_half_of_what_libsndfile_reads_is_told(tmp_path: Path, shape: str, subtype: str) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(5 * RATE), RATE, format=shape, subtype=subtype)
    assert len(load_audio(path)) == 5 * RATE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="breaks off"):
        load_audio(path)


def test_an_ogg_stream_whose_writer_stopped_between_two_pages_is_read_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(5 * RATE), RATE, format="OGG", subtype="VORBIS")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"OggS")])
    loaded, (remark,) = load_with_remarks(path)
    assert RATE < len(loaded) < 5 * RATE and "no mark at its end" in str(remark)


def test_an_mp3_of_many_bitrates_without_a_count_is_read_to_its_end(tmp_path: Path) -> None:
    for name, bits, seconds in (("high", 320_000, 1), ("low", 32_000, 5)):
        encode(
            tmp_path / f"{name}.mp3", "libmp3lame", 44_100, bits=bits, seconds=seconds,
            write_xing="0", id3v2_version="0",
        )  # fmt: skip
    content = [(tmp_path / f"{name}.mp3").read_bytes() for name in ("high", "low")]
    (tmp_path / "both.mp3").write_bytes(b"".join(content))
    # libsndfile guesses from the first frame.
    assert soundfile.info(tmp_path / "both.mp3").duration < 2
    assert len(load_audio(tmp_path / "both.mp3")) == pytest.approx(6 * RATE, abs=0.2 * RATE)


def test_tags_of_any_bytes_are_no_matter(tmp_path: Path) -> None:
    encode(tmp_path / "a.webm", "libopus", 48_000)
    content = (tmp_path / "a.webm").read_bytes()
    place = content.index(b"Lavf")
    (tmp_path / "a.webm").write_bytes(content[:place] + b"\xff\xfe\xc3\x28" + content[place + 4 :])
    assert len(load_audio(tmp_path / "a.webm")) == pytest.approx(2 * RATE, abs=0.1 * RATE)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is an empty file"),
        (b"not audio at all", "is text, not audio"),
        ("ğ".encode() * 5000, "is text, not audio"),
        ("nothing to hear".encode("utf-16"), "is text, not audio"),
        (b"<!DOCTYPE html><title>404</title>", "is text, not audio"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "is a playlist"),
        (b"ffconcat version 1.0\nfile 'other.wav'\n", "is a playlist"),
        (b"[playlist]\nFile1=other.wav\n", "is a playlist"),
        (b"PK\3\4" + bytes(100), "is a zip archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is a PNG image"),
        (bytes(range(256)) * 20, "cannot decode"),
    ],
)
@pytest.mark.parametrize("suffix", [".wav", ".mp4", ".mp3"])
def test_what_is_no_audio_is_told_by_its_content(
    tmp_path: Path, content: bytes, told: str, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=told) as fault:
        load_audio(path)
    assert "\n" not in str(fault.value) and path.name in str(fault.value)


def test_a_playlist_leads_to_no_other_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "other.wav", noise(), RATE)
    # Also where what FFmpeg looks for does not stand at the beginning, or where nothing tells it is text.
    for head in (b"ffconcat version 1.0\n", b"\0ffconcat version 1.0\n", b"#EXTM3U\n\0"):
        (tmp_path / "x.mp4").write_bytes(head + b"file other.wav\n#EXTINF:1,\nother.wav\n")
        with pytest.raises(AudioError):
            load_audio(tmp_path / "x.mp4")


@pytest.mark.parametrize("rate", [1, 1_000, 2**31 - 1])
def test_rates_that_no_voice_has_are_refused_before_they_are_resampled(tmp_path: Path, rate: int) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(noise().tobytes())
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"samples a second.*mend its header"):
        load_audio(tmp_path / "a.wav")


def test_more_sound_than_can_be_read_at_once_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxstrata.audio.reading.MOST_VALUES", RATE)
    for suffix in (".wav", ".flac", ".ogg"):
        soundfile.write(tmp_path / f"a{suffix}", noise(2 * RATE), RATE)
        with pytest.raises(AudioError, match="cut it into shorter"):
            load_audio(tmp_path / f"a{suffix}")
        assert len(load_audio(tmp_path / f"a{suffix}", offset_s=1.5, duration_s=0.5)) == RATE // 2


def test_a_file_that_is_called_like_a_place_in_a_tar_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar#0:10.flac"
    soundfile.write(path, noise(), RATE)
    assert len(load_audio(path)) == RATE
    assert len(read_sound(path).samples) == RATE


def with_form(path: Path, place: int, form: str, value: int) -> Path:
    """A WAV file of 16 bits, mono, with one field of its header changed."""
    soundfile.write(path, noise(), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, place, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("place", "value"), [(22, 2), (22, 226), (34, 24), (34, 64)])
def test_a_wav_header_that_contradicts_itself_is_refused(tmp_path: Path, place: int, value: int) -> None:
    """Bytes of a sample and of a second agree, and are those of one channel of 16 bits."""
    with pytest.raises(AudioError, match=r"contradicts itself: \d+ channels of \d+ bits in 2 bytes a sample"):
        load_audio(with_form(tmp_path / "a.wav", place, "<H", value))


def test_a_wav_header_with_two_rates_is_noted(tmp_path: Path) -> None:
    remarks = load_with_remarks(with_form(tmp_path / "a.wav", 24, "<I", 54_321))[1]
    told = "header: it says 54321 samples a second, and as many bytes a second as of 16000"
    assert told in [str(remark) for remark in remarks]


@pytest.mark.parametrize(
    ("place", "form", "value"), [(28, "<I", 0), (32, "<H", 0), (32, "<H", 1), (28, "<I", 7)]
)
def test_what_writers_leave_wrong_in_a_header_is_no_matter(
    tmp_path: Path, place: int, form: str, value: int
) -> None:
    loaded, remarks = load_with_remarks(with_form(tmp_path / "a.wav", place, form, value))
    np.testing.assert_array_equal(loaded, noise() / np.float32(32768))
    assert remarks == ()
