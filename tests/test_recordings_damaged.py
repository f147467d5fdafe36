"""Compressed recordings with holes or wrong counts: what is there is read, what is missing is said."""

from __future__ import annotations

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from encoded import RATE, av_encoded, encoded, ogg_flac, voice, without_count
from voxstrata.audio import load_with_remarks, read_sound
from voxstrata.audio.mp3 import claim_of_mp3
from voxstrata.audio.ogg import claim_of_ogg
from voxstrata.audio.quiet import quiet
from voxstrata.corpora.faults import inspect_audio
from voxstrata.errors import AudioError

LONG = voice(10.0)
MP3, CONSTANT = encoded("MP3", None, LONG), without_count(encoded("MP3", None, LONG))
HOLES = {
    "zeros": lambda content, place, size: content[:place] + bytes(size) + content[place + size :],
    "noise": lambda content, place, size: (
        content[:place] + np.random.default_rng(0).bytes(size) + content[place + size :]
    ),
    "gone": lambda content, place, size: content[:place] + content[place + size :],
}


@pytest.fixture(params=["with PyAV", "without PyAV"])
def decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without PyAV":
        monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("place", [9_000, 20_001])
def test_an_mp3_with_a_hole_keeps_its_length_and_is_silent_there(
    tmp_path: Path, decoders: None, capfd: pytest.CaptureFixture[str], hole: str, place: int
) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(MP3)
    whole = read_sound(path).samples
    path.write_bytes(HOLES[hole](MP3, place, 3000))
    sound = read_sound(path)
    assert len(sound.samples) == len(whole)
    (remark,) = sound.remarks
    assert remark.kind == "damaged" and "frames are missing or broken, the first at" in remark.detail
    start_s = place / len(MP3) * 10
    assert float(remark.detail.split(" at ")[1].split(" s")[0]) == pytest.approx(start_s, abs=0.3)
    differs = np.flatnonzero(np.abs(sound.samples - whole).max(axis=1) > 1e-6)
    # 3,000 of some 40,000 bytes of 10 s, and a few frames beside them.
    assert (differs[-1] - differs[0]) / RATE == pytest.approx(3000 / len(MP3) * 10, abs=0.6)
    assert np.abs(sound.samples).max() <= np.abs(whole).max() * 1.1
    inside = sound.samples[differs[0] + 2000 : differs[0] + 6000]
    assert np.abs(inside).max() < 1e-3
    assert capfd.readouterr().err == ""
    assert inspect_audio(path).fault is None


@pytest.mark.parametrize("hole", ["zeros", "noise"])
@pytest.mark.parametrize("codec", ["mp3", "mp2"])
def test_a_hole_in_frames_that_nothing_counts_is_filled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], hole: str, codec: str
) -> None:
    content = CONSTANT if codec == "mp3" else av_encoded("mp2", "mp2", LONG)
    (tmp_path / "a.mp3").write_bytes(content)
    whole = len(read_sound(tmp_path / "a.mp3").samples)
    (tmp_path / "a.mp3").write_bytes(HOLES[hole](content, len(content) // 2, 3000))
    sound = read_sound(tmp_path / "a.mp3")
    assert len(sound.samples) == pytest.approx(whole, abs=1152)
    assert [remark.kind for remark in sound.remarks] == ["damaged"]
    assert capfd.readouterr().err == ""


def test_mp3_files_of_which_most_is_missing_are_refused(tmp_path: Path) -> None:
    for content, told in (
        (MP3[:9_000] + bytes(len(MP3) - 12_000) + MP3[-3_000:], "is damaged: .* frames can be read"),
        (MP3[:9_000], "breaks off: .* of .* frames"),
        (CONSTANT[:9_050], "breaks off: its last frame"),
        (MP3[: MP3.index(b"\xff\xf3", 4)], "breaks off: 0 of .* frames"),
        (MP3[:100], "breaks off: its first frame"),
    ):
        (tmp_path / "a.mp3").write_bytes(content)
        with pytest.raises(AudioError, match=told) as fault:
            read_sound(tmp_path / "a.mp3")
        assert "\n" not in str(fault.value)


def test_an_mp3_whose_end_or_beginning_is_none_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(5000)
    for content, told in (
        (CONSTANT + noise, "its last 5,000 bytes hold no frames"),
        (CONSTANT[: len(CONSTANT) // 2] + bytes(20_000), "bytes hold no frames"),
        (noise + CONSTANT, "its first 5,000 bytes hold no frames"),
    ):
        (tmp_path / "a.mp3").write_bytes(content)
        assert any(told in remark.detail for remark in read_sound(tmp_path / "a.mp3").remarks)


def scrambled(seed: int) -> bytes:
    """An MP3 with noise in the frames, not in their headers."""
    rng, content = np.random.default_rng(seed), bytearray(CONSTANT)
    place = 0
    while (place := content.find(b"\xff\xf3", place + 1)) >= 0:
        start = place + 4 + int(rng.integers(100))
        if rng.random() < 0.5 and start + 20 < len(content):
            content[start : start + 20] = rng.integers(0, 255, 20, dtype=np.uint8).tobytes()
    return bytes(content)


def test_decoders_print_nothing_and_others_may(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / f"{seed}.mp3" for seed in range(8)]
    for seed, path in enumerate(paths):
        path.write_bytes(scrambled(seed))

    def read(path: Path) -> None:
        try:
            read_sound(path)
        except AudioError as fault:
            assert "\n" not in str(fault)
        sys.stderr.write("mine\n")
        os.write(2, b"mine too\n")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, paths))
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == ["mine"] * 8 + ["mine too"] * 8


@pytest.mark.skipif(sys.platform == "win32", reason="there the C library has no variable for it")
def test_what_c_libraries_print_is_kept_back_while_something_is_decoded(
    capfd: pytest.CaptureFixture[str],
) -> None:
    perror = ctypes.CDLL(None).perror
    perror(b"before")
    with quiet():
        perror(b"outer")
        with quiet():
            perror(b"inner")
        perror(b"outer")
    with pytest.raises(ValueError, match="x"), quiet():
        raise ValueError("x")
    perror(b"after")
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["before", "after"]


def with_total(content: bytes, total: int) -> bytes:
    """A FLAC file whose header counts so many samples."""
    place = content.index(b"fLaC") + 21
    count = (content[place] & 0xF0) << 32 | total
    return content[:place] + count.to_bytes(5, "big") + content[place + 5 :]


FLACS = {
    "mono": encoded("FLAC", "PCM_16"),
    "24 bits": encoded("FLAC", "PCM_24"),
    "8 bits": encoded("FLAC", "PCM_S8"),
    "8 channels": encoded("FLAC", "PCM_16", np.repeat(voice()[:, None], 8, axis=1)),
    "a frame": encoded("FLAC", "PCM_16", voice(0.1)),
    "a minute": encoded("FLAC", "PCM_16", voice(60)),
    "silent end": encoded("FLAC", "PCM_16", np.concatenate([voice(), np.zeros(30 * RATE)])),
    "384 kHz": encoded("FLAC", "PCM_16", voice(), 384_000),
    "odd length": encoded("FLAC", "PCM_16", voice(1.23457)),
}


@pytest.mark.parametrize("name", FLACS)
@pytest.mark.parametrize("total", [0, 1, 1000])
def test_a_flac_that_counts_too_few_samples_is_read_whole(tmp_path: Path, name: str, total: int) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(FLACS[name])
    whole = read_sound(path)
    assert whole.remarks == ()
    for tags in (b"", b"TAG" + b"x" * 125):
        path.write_bytes(with_total(FLACS[name], total) + tags)
        sound = read_sound(path)
        np.testing.assert_array_equal(sound.samples, whole.samples)
        told = [f"header: it declares {total} of {len(whole.samples)} samples; all of them are read"]
        assert [str(remark) for remark in sound.remarks] == (told if total else [])
    part = read_sound(path, offset_s=0.05, duration_s=0.02).samples
    rate = whole.sample_rate
    np.testing.assert_array_equal(part, whole.samples[round(0.05 * rate) :][: round(0.02 * rate)])


def test_a_flac_that_another_encoder_wrote_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(with_total(av_encoded("flac", "flac", rate=44_100), 5000))
    sound = read_sound(tmp_path / "a.flac")
    assert len(sound.samples) == 88_200 and "declares 5000 of 88200" in str(sound.remarks[0])


@pytest.mark.parametrize("total", [0, 1000, 32_000])
@pytest.mark.parametrize("hole", [*HOLES, "cut"])
def test_a_flac_with_a_hole_is_refused_whatever_it_counts(tmp_path: Path, total: int, hole: str) -> None:
    content = with_total(FLACS["mono"], total)
    middle = len(content) // 2
    damaged = content[:middle] if hole == "cut" else HOLES[hole](content, middle, 500)
    (tmp_path / "a.flac").write_bytes(damaged)
    with pytest.raises(
        AudioError, match=r"breaks off, or is damaged, after \d+ of \d+ samples; copy it again"
    ):
        read_sound(tmp_path / "a.flac")


def pages_of(content: bytes) -> list[bytes]:
    """Pages of an Ogg file, from size to size."""
    pages, place = [], 0
    while place < len(content):
        sizes = content[place + 27 : place + 27 + content[place + 26]]
        pages.append(content[place : place + 27 + len(sizes) + sum(sizes)])
        place += len(pages[-1])
    return pages


def checksum(page: bytes) -> int:
    """The CRC of RFC 3533, bit by bit."""
    crc = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7) & 0xFFFFFFFF if crc >> 31 else crc << 1
    return crc


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("hole", ["gone", "a bit", "noise"])
@pytest.mark.parametrize("number", [5, 12])
def test_an_ogg_file_without_one_of_its_pages_leaves_it_out(
    tmp_path: Path, decoders: None, subtype: str, hole: str, number: int
) -> None:
    pages = pages_of(encoded("OGG", subtype, voice(20.0)))
    (tmp_path / "a.ogg").write_bytes(b"".join(pages))
    whole = read_sound(tmp_path / "a.ogg").samples
    page = bytearray(pages[number])
    if hole == "a bit":
        page[len(page) // 2] ^= 1
    elif hole == "noise":
        page[40:] = np.random.default_rng(0).bytes(len(page) - 40)
    pages[number] = b"" if hole == "gone" else bytes(page)
    (tmp_path / "a.ogg").write_bytes(b"".join(pages))
    sound = read_sound(tmp_path / "a.ogg")
    (remark,) = sound.remarks
    assert str(remark) == f"damaged: 1 of {len(pages)} pages are missing or broken; they are left out"
    lost = len(whole) - len(sound.samples)
    assert 0.5 < lost / sound.sample_rate < 1.5
    same = sound.sample_rate // 4
    np.testing.assert_array_equal(sound.samples[: 2 * same], whole[: 2 * same])
    np.testing.assert_allclose(sound.samples[-same:], whole[-same:], atol=1e-4)
    part = read_sound(tmp_path / "a.ogg", offset_s=1.0, duration_s=0.5).samples
    np.testing.assert_array_equal(part, sound.samples[4 * same :][: 2 * same])


def test_a_part_of_a_broadcast_says_so(tmp_path: Path) -> None:
    pages = pages_of(encoded("OGG", "VORBIS", voice(20.0)))
    (tmp_path / "a.ogg").write_bytes(b"".join(pages[:2] + pages[10:]))
    sound = read_sound(tmp_path / "a.ogg")
    assert [str(remark) for remark in sound.remarks] == [
        "header: its first 8 pages with sound are missing: it is a part of a recording"
    ]
    assert len(sound.samples) / RATE == pytest.approx(20 * (len(pages) - 10) / (len(pages) - 2), abs=1)


def test_an_ogg_file_whose_times_go_back_is_refused(tmp_path: Path) -> None:
    pages = pages_of(encoded("OGG", "VORBIS", voice(20.0)))
    assert all(checksum(page) == int.from_bytes(page[22:26], "little") for page in pages)
    last = pages[-1][:6] + (1000).to_bytes(8, "little") + pages[-1][14:]
    last = last[:22] + checksum(last).to_bytes(4, "little") + last[26:]
    (tmp_path / "a.ogg").write_bytes(b"".join(pages[:-1]) + last)
    with pytest.raises(AudioError, match="a later page ends before an earlier one; copy it again"):
        read_sound(tmp_path / "a.ogg")


def test_ogg_files_of_which_little_is_left_are_refused(tmp_path: Path) -> None:
    pages = pages_of(encoded("OGG", "VORBIS", voice(20.0)))
    one, last = b"".join(pages), bytearray(pages[-1])
    for content, told in (
        (b"".join(pages[:4] + pages[-2:]), "is damaged: 6 of .* pages can be read"),
        (b"".join(pages) + b"".join(pages[1:]), "is damaged"),
        (one + one[:-100], "breaks off: its last page"),
        (one[:-100], "breaks off: its last page"),
    ):
        (tmp_path / "a.ogg").write_bytes(content)
        with pytest.raises(AudioError, match=told):
            read_sound(tmp_path / "a.ogg")
    assert last[5] & 4


@pytest.mark.parametrize(
    "content",
    [encoded("OGG", "VORBIS"), encoded("OGG", "OPUS"), encoded("OGG", "VORBIS", voice(60))],
    ids=["vorbis", "opus", "a minute"],
)
def test_whole_ogg_files_have_nothing_to_be_said_of(tmp_path: Path, content: bytes) -> None:
    """Their checksums are libogg's."""
    for tail in (b"", b"TAG" + b"x" * 125, bytes(5000)):
        (tmp_path / "a.ogg").write_bytes(content + tail)
        with (tmp_path / "a.ogg").open("rb") as file:
            claim = claim_of_ogg(file)
        assert (claim.fault, claim.remarks, claim.parts) == ("", (), ())


def test_whole_flac_in_ogg_has_nothing_to_be_said_of(tmp_path: Path) -> None:
    (tmp_path / "a.oga").write_bytes(ogg_flac(voice()))
    loaded, remarks = load_with_remarks(tmp_path / "a.oga")
    assert len(loaded) == 2 * RATE and remarks == ()


@pytest.mark.parametrize("form", ["VOC", "AVI", "TS", "FLV", "AC-3", "E-AC-3", "AAC"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_part_of_a_file_of_blocks_is_refused(tmp_path: Path, form: str, share: float) -> None:
    content = {
        "VOC": lambda: encoded("VOC", "PCM_16"),
        "AVI": lambda: av_encoded("avi", "pcm_s16le"),
        "TS": lambda: av_encoded("mpegts", "aac"),
        "FLV": lambda: av_encoded("flv", "aac", rate=44_100),
        "AC-3": lambda: av_encoded("ac3", "ac3", rate=44_100),
        "AAC": lambda: av_encoded("adts", "aac", rate=44_100),
        "E-AC-3": lambda: av_encoded("eac3", "eac3"),
    }[form]()
    (tmp_path / "a.x").write_bytes(content)
    assert len(load_with_remarks(tmp_path / "a.x")[0]) == pytest.approx(2 * RATE, abs=1000)
    (tmp_path / "a.x").write_bytes(content[: int(len(content) * share) | 1])
    with pytest.raises(AudioError, match="breaks off"):
        read_sound(tmp_path / "a.x")


def test_a_gap_in_the_times_of_a_stream_is_noted(tmp_path: Path) -> None:
    content = av_encoded("mpegts", "aac", LONG)
    middle = len(content) // 2 // 188 * 188
    (tmp_path / "a.ts").write_bytes(content[:middle] + content[middle + 188 * 40 :])
    sound = read_sound(tmp_path / "a.ts")
    (remark,) = sound.remarks
    assert remark.kind == "gaps" and "the first at" in remark.detail
    missing_s = float(remark.detail.split("leave out ")[1].split(" s")[0])
    assert missing_s + len(sound.samples) / sound.sample_rate == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_of_any_rate_is_read_as_it_is_and_its_holes_are_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rate: int, channels: int
) -> None:
    samples = np.stack([voice(4.0, k, 200 + k) for k in range(channels)], axis=1)
    content = encoded("MP3", None, samples, rate)
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    with path.open("rb") as file:
        claim = claim_of_mp3(file)
    assert (claim.fault, claim.remarks, claim.parts) == ("", (), ())
    for hole in ("zeros", "noise"):
        path.write_bytes(HOLES[hole](content, len(content) // 2, 2000))
        sound = read_sound(path)
        assert sound.samples.shape == samples.shape
        assert [remark.kind for remark in sound.remarks] == ["damaged"]
    # The same length, and so in a file that nothing counts, up to what an encoder adds at both ends.
    path.write_bytes(HOLES["zeros"](without_count(content), len(content) // 2, 2000))
    assert len(read_sound(path).samples) == pytest.approx(len(samples), abs=3 * 1152)
    assert capfd.readouterr().err == ""
