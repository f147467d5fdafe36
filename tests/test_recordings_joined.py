"""Files that hold several recordings, as `cat a.mp3 b.mp3` leaves them: all is read, or something is said."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from encoded import RATE, av_encoded, encoded, ogg_flac, voice, without_count
from voxstrata.audio import load_audio, load_with_remarks, read_sound
from voxstrata.corpora.faults import inspect_audio
from voxstrata.errors import AudioError

SECOND = voice(3.0, 1, 300.0)
ID3 = b"ID3\4\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
ID3V1 = b"TAG" + b"x" * 125
APE = b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in (2000, 42, 1, 0xA0000000)) + bytes(8)
APE += (
    b"abcdefghij" + b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in (2000, 42, 1, 1 << 31)) + bytes(8)
)


def samples_of(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return read_sound(path).samples


@pytest.fixture(params=["with PyAV", "without PyAV"])
def decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without PyAV":
        monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_joined_streams_are_read_one_after_the_other(
    tmp_path: Path, decoders: None, form: str, subtype: str | None, count: int
) -> None:
    contents = [encoded(form, subtype, voice(1 + k / 4, k, 200 + 50 * k)) for k in range(count)]
    expected = np.concatenate([samples_of(tmp_path / "a.x", content) for content in contents])
    path = tmp_path / "b.x"
    path.write_bytes(b"".join(contents))
    sound = read_sound(path)
    np.testing.assert_array_equal(sound.samples, expected)
    (remark,) = sound.remarks
    assert str(remark) == f"joined: it holds {count} recordings one after the other; all of them are read"
    rate = sound.sample_rate
    part = read_sound(path, offset_s=0.75, duration_s=0.5).samples
    np.testing.assert_array_equal(part, expected[round(0.75 * rate) :][: rate // 2])
    assert inspect_audio(path).samples == len(load_audio(path))


def test_joined_flac_in_ogg_and_streams_of_other_codecs_are_read(tmp_path: Path) -> None:
    first, second = (voice() * 32768).astype(np.int16), (SECOND * 32768).astype(np.int16)
    found = samples_of(tmp_path / "a.oga", ogg_flac(first) + ogg_flac(second))
    np.testing.assert_array_equal(found[:, 0], np.concatenate([first, second]) / np.float32(32768))
    mixed = ogg_flac(first) + encoded("OGG", "VORBIS", SECOND) + encoded("OGG", "OPUS")
    assert len(samples_of(tmp_path / "a.oga", mixed)) == 7 * RATE


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("MP3", None)])
@pytest.mark.parametrize("rates", [(16_000, 44_100), (44_100, 16_000)])
@pytest.mark.parametrize("channels", [(1, 2), (2, 1)])
def test_joined_streams_take_rate_and_channels_of_the_first(
    tmp_path: Path, form: str, subtype: str | None, rates: tuple[int, int], channels: tuple[int, int]
) -> None:
    parts = [
        encoded(form, subtype, np.repeat(voice(1.0, k)[:, None], channels[k], axis=1), rates[k])
        for k in range(2)
    ]
    (tmp_path / "a.x").write_bytes(parts[0] + parts[1])
    sound = read_sound(tmp_path / "a.x")
    seconds = sum(RATE / rate for rate in rates)
    assert sound.sample_rate == rates[0] and sound.samples.shape[1] == channels[0]
    assert len(sound.samples) / rates[0] == pytest.approx(seconds, abs=0.01)
    # The tone of the second, 200 Hz at 16 kHz, at its place.
    behind = sound.samples[-rates[0] // 8 :, 0]
    heard_hz = np.argmax(np.abs(np.fft.rfft(behind * np.hanning(len(behind))))) * 8
    assert heard_hz == pytest.approx(200 * rates[1] / RATE, abs=8)


FIRST, OTHER = encoded("MP3"), encoded("MP3", None, SECOND)


@pytest.mark.parametrize(
    ("content", "seconds", "recordings"),
    [
        (ID3 + FIRST + ID3V1 + ID3 + OTHER + APE, 5.0, 2),
        (FIRST + APE + ID3V1 + OTHER, 5.0, 2),
        (FIRST + without_count(OTHER), 5.06, 2),
        (ID3 + FIRST + ID3 + without_count(OTHER) + ID3V1, 5.06, 2),
        (without_count(FIRST) + OTHER, 5.06, 2),
        # Nothing tells that these were two.
        (without_count(FIRST) + without_count(OTHER), 5.15, 1),
        (FIRST + APE, 2.0, 1),
        (ID3 + bytes(3000) + FIRST, 2.0, 1),
        (bytes(5000) + FIRST, 2.0, 1),
        (b"some text\n" + FIRST, 2.0, 1),
    ],
)
def test_mp3_files_are_read_past_tags_and_counts(
    tmp_path: Path,
    decoders: None,
    capfd: pytest.CaptureFixture[str],
    content: bytes,
    seconds: float,
    recordings: int,
) -> None:
    (tmp_path / "a.mp3").write_bytes(content)
    loaded, remarks = load_with_remarks(tmp_path / "a.mp3")
    assert len(loaded) / RATE == pytest.approx(seconds, abs=0.01)
    assert [remark.kind for remark in remarks] == ["joined"] * (recordings > 1)
    assert capfd.readouterr().err == ""


def test_an_mp3_of_many_bitrates_without_a_count_needs_no_pyav(tmp_path: Path, decoders: None) -> None:
    path = tmp_path / "a.mp3"
    content = b""
    for quality in (0.0, 0.9):
        soundfile.write(path, voice(3.0), RATE, compression_level=quality, bitrate_mode="CONSTANT")
        content += path.read_bytes()
    path.write_bytes(content)
    # libsndfile guesses from the first frame.
    assert soundfile.info(path).duration < 5
    assert len(read_sound(path).samples) / RATE == pytest.approx(6.1, abs=0.1)


UNJOINED = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("AU", "ULAW"),
    ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "subtype"), UNJOINED)
def test_of_formats_that_end_the_first_is_read_and_the_other_named(
    tmp_path: Path, form: str, subtype: str
) -> None:
    one, two = encoded(form, subtype), encoded(form, subtype, SECOND)
    expected = samples_of(tmp_path / "a.x", one)
    for behind in (two, two + one):
        np.testing.assert_array_equal(samples_of(tmp_path / "a.x", one + behind), expected)
        (remark,) = read_sound(tmp_path / "a.x").remarks
        told = f"another file: {len(behind):,} bytes behind its end are another recording, which is not read"
        assert str(remark).startswith(told)
    # Cut, and another one behind it.
    with pytest.raises(AudioError, match="breaks off"):
        samples_of(tmp_path / "a.x", one[: len(one) * 3 // 4] + two)


@pytest.mark.parametrize(
    ("form", "codec"),
    [("ipod", "aac"), ("mov", "pcm_s16le"), ("tta", "tta"), ("flv", "aac"), ("caf", "alac")],
)
def test_of_formats_that_ffmpeg_reads_the_other_is_named_too(tmp_path: Path, form: str, codec: str) -> None:
    one = av_encoded(form, codec, rate=44_100)
    expected = samples_of(tmp_path / "a.x", one)
    np.testing.assert_array_equal(samples_of(tmp_path / "a.x", one + one), expected)
    (remark,) = read_sound(tmp_path / "a.x").remarks
    assert remark.kind == "another file" and f"{len(one):,} bytes behind its end" in remark.detail


@pytest.mark.parametrize(
    ("form", "codec"), [("adts", "aac"), ("mpegts", "aac"), ("matroska", "pcm_s16le"), ("mp2", "mp2")]
)
def test_formats_of_frames_are_joined_by_themselves(tmp_path: Path, form: str, codec: str) -> None:
    one = av_encoded(form, codec, rate=44_100)
    alone = len(samples_of(tmp_path / "a.x", one))
    assert len(samples_of(tmp_path / "a.x", one + one)) == pytest.approx(2 * alone, abs=3000)


@pytest.mark.parametrize("form", ["FLAC", "MP3", "OGG", "AIFF"])
def test_a_file_of_another_kind_behind_a_wav_is_no_sound(tmp_path: Path, form: str) -> None:
    behind = encoded(form)
    found = samples_of(tmp_path / "a.wav", encoded("WAV", "PCM_16") + behind)
    assert len(found) == 2 * RATE
    (remark,) = read_sound(tmp_path / "a.wav").remarks
    assert remark.kind == "another file" and f"{len(behind):,} bytes" in remark.detail


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF])
def test_streamed_wavs_that_were_joined_end_where_the_other_begins(tmp_path: Path, claimed: int) -> None:
    one = encoded("WAV", "PCM_16")
    streamed = one[:40] + claimed.to_bytes(4, "little") + one[44:]
    found = samples_of(tmp_path / "a.wav", streamed + streamed)
    np.testing.assert_array_equal(found, samples_of(tmp_path / "b.wav", one))
    assert [remark.kind for remark in read_sound(tmp_path / "a.wav").remarks][-1] == "another file"


def test_a_wav_within_the_sound_of_a_wav_is_sound(tmp_path: Path) -> None:
    one = encoded("WAV", "PCM_16")
    twice = one[:4] + (len(one) + 36).to_bytes(4, "little") + one[8:40] + len(one).to_bytes(4, "little") + one
    assert len(samples_of(tmp_path / "a.wav", twice)) == 2 * RATE + 22
    assert read_sound(tmp_path / "a.wav").remarks == ()


def test_a_stream_that_changes_its_rate_keeps_the_first(tmp_path: Path) -> None:
    content = av_encoded("adts", "aac", rate=44_100) + av_encoded("adts", "aac", SECOND, rate=22_050)
    (tmp_path / "a.aac").write_bytes(content)
    sound = read_sound(tmp_path / "a.aac")
    assert sound.sample_rate == 44_100 and len(sound.samples) / 44_100 == pytest.approx(5.1, abs=0.1)


def test_a_second_stretch_of_sound_in_a_wav_is_named(tmp_path: Path) -> None:
    one = encoded("WAV", "PCM_16")
    (tmp_path / "a.wav").write_bytes(one + one[36:])
    sound = read_sound(tmp_path / "a.wav")
    assert len(sound.samples) == 2 * RATE
    told = "header: it holds a second stretch of sound, of 64,000 bytes, which is not read"
    assert [str(remark) for remark in sound.remarks] == [told]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_first_sound_track_of_a_video_is_read(tmp_path: Path, count: int) -> None:
    av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        tracks = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(count)]
        for _ in range(20):
            container.mux(pictures.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(pictures.encode(None))
        for number, track in enumerate(tracks):
            samples = (voice(2.0, number) * 32768).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    if not count:
        with pytest.raises(AudioError, match="has no audio stream; leave it out"):
            read_sound(path)
        return
    sound = read_sound(path)
    np.testing.assert_array_equal(sound.samples[:, 0], (voice() * 32768).astype(np.int16) / np.float32(32768))
    told = [f"several sound tracks: it holds {count}; the first of them is read"]
    assert [str(remark) for remark in sound.remarks] == (told if count > 1 else [])


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("MP3", None)])
def test_a_file_of_thousands_of_recordings_is_refused_before_they_are_read(
    tmp_path: Path, form: str, subtype: str | None
) -> None:
    (tmp_path / "a.x").write_bytes(encoded(form, subtype, voice(0.1)) * 1001)
    with pytest.raises(AudioError, match=r"holds 1,001 recordings one after the other; .* split it"):
        read_sound(tmp_path / "a.x")


def test_a_count_of_another_form_than_its_frames_counts_them(tmp_path: Path) -> None:
    """The first frame says stereo, the others are mono."""
    content = bytearray(FIRST)
    assert content[3] >> 6 == 3
    content[3] &= 0x3F
    mark = content.index(b"Xing")
    # Behind the side information of two channels.
    content[mark + 8 : mark + 8 + 50], content[mark : mark + 8] = content[mark : mark + 50], bytes(8)
    (tmp_path / "a.mp3").write_bytes(bytes(content))
    assert len(read_sound(tmp_path / "a.mp3").samples) / RATE == pytest.approx(2.0, abs=0.1)
