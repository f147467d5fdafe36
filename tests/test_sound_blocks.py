"""A recording in blocks is the recording that is read at once, and refused where that is refused."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from encoded import av_encoded, encoded, voice
from long_recordings import RATE, burst
from voxstrata.audio import Sound, read_sound
from voxstrata.audio.blocks import sound_blocks
from voxstrata.errors import AudioError
from voxstrata.inference.given import Given
from voxstrata.inference.scan import scan
from voxstrata.inference.windows import windows


@given(st.sampled_from([8000, 16_000, 22_050, 44_100]), st.integers(1, 3), st.integers(0, 9))
@settings(max_examples=10)
def test_windows_are_stretches_of_the_whole_recording(rate: int, channels: int, seed: int) -> None:
    from voxstrata.audio import resample

    rng = np.random.default_rng(seed)
    samples = np.stack([burst(seed + k, 40.0, rate) for k in range(channels)], axis=1)
    recording = Given("x", sound=Sound(samples, rate))
    tracks = scan(recording, split=True).tracks
    starts = np.sort(rng.uniform(0, 39, 12))
    asked = [((a, min(40.0, a + rng.uniform(0.1, 9))), int(rng.integers(channels))) for a in starts]
    found = list(windows(recording, tracks, asked))
    for ((start_s, end_s), track), part in zip(asked, found, strict=True):
        whole = resample(np.ascontiguousarray(samples[:, track]), rate)
        expected = whole[round(start_s * RATE) : round(end_s * RATE)]
        assert len(part) == len(expected) and np.abs(part - expected).max() < 1e-4


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "w64", "au", "m4a", "webm"])
def test_blocks_are_the_samples_of_the_whole_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    samples = np.stack([burst(k, 5.0, 48_000) for k in range(2)], axis=1)
    if suffix in ("m4a", "webm"):
        av = pytest.importorskip("av")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac" if suffix == "m4a" else "libopus", rate=48_000)
            stream.layout = "stereo"
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples.T), format="fltp", layout="stereo"
            )
            frame.sample_rate = 48_000
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    else:
        soundfile.write(path, samples, 48_000)
    with sound_blocks(path) as found:
        blocks = list(found.blocks)
    whole = read_sound(path)
    assert found.sample_rate == whole.sample_rate
    assert np.array_equal(np.concatenate(blocks), whole.samples)


def test_files_that_are_refused_whole_are_refused_in_blocks(tmp_path: Path) -> None:
    good = tmp_path / "good.flac"
    soundfile.write(good, burst(1, 60.0), RATE)
    made = {
        "empty.wav": b"",
        "text.wav": b"no audio, but text",
        "cut.flac": good.read_bytes()[: good.stat().st_size // 2],
        "odd.raw": b"\0\1\2",
    }
    for name, content in made.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(AudioError) as whole:
            read_sound(path)
        with pytest.raises(AudioError) as parts, sound_blocks(path) as found:
            list(found.blocks)
        assert re.split(":|, after", str(parts.value))[0] == re.split(":|, after", str(whole.value))[0]
    soundfile.write(
        tmp_path / "nan.wav", np.array([0.1, np.nan, 0.2] * 20, np.float32), RATE, subtype="FLOAT"
    )
    with pytest.raises(AudioError, match="not finite"), sound_blocks(tmp_path / "nan.wav") as found:
        list(found.blocks)


def test_clicks_are_interpolated_in_long_recordings_too() -> None:
    voice = burst(1, 40.0)
    clicked = voice.copy()
    clicked[[RATE, 20 * RATE]] = 1e6
    found = scan(Given("x", sound=Sound(clicked[:, None], RATE)), split=False)
    clean = scan(Given("x", sound=Sound(voice[:, None], RATE)), split=False)
    assert any("clicks: 2 of" in str(remark) for remark in found.remarks)
    assert found.tracks[0].gain == clean.tracks[0].gain == 1
    (part,) = windows(Given("x", sound=Sound(clicked[:, None], RATE)), found.tracks, [((0.5, 1.5), 0)])
    assert np.abs(part).max() <= np.abs(voice).max() * 1.01


def two_tracks() -> bytes:
    """A Matroska file with two sound tracks."""
    av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    written = io.BytesIO()
    with av.open(written, "w", format="matroska") as container:
        tracks = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for number, track in enumerate(tracks):
            samples = (voice(2.0, number) * 32768).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux([*track.encode(frame), *track.encode(None)])
    return written.getvalue()


def with_gap() -> bytes:
    """A stream of packets of 188 bytes of which 40 were lost."""
    pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    content = av_encoded("mpegts", "aac", voice(10.0))
    middle = len(content) // 2 // 188 * 188
    return content[:middle] + content[middle + 188 * 40 :]


@pytest.mark.parametrize(
    ("made", "kinds"),
    [
        (two_tracks, ["several sound tracks"]),
        (with_gap, ["gaps"]),
        (lambda: encoded("MP3", None) + encoded("MP3", None, voice(3.0, 1)), ["joined"]),
        (lambda: encoded("OGG", "VORBIS") + encoded("OGG", "OPUS", voice(3.0, 1)), ["joined"]),
        (lambda: encoded("WAV", "PCM_16") + encoded("WAV", "PCM_16")[36:], ["header"]),
        (lambda: encoded("WAV", "PCM_16"), []),
    ],
)
def test_blocks_have_the_remarks_of_the_whole_file(
    made: Callable[[], bytes], kinds: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.x"
    path.write_bytes(made())
    whole = read_sound(path)
    with sound_blocks(path) as found:
        blocks = list(found.blocks)
    assert tuple(found.remarks) == whole.remarks
    assert [remark.kind for remark in whole.remarks] == kinds
    assert np.concatenate(blocks).shape == whole.samples.shape
    assert set(whole.remarks) <= set(scan(Given("x", path=path), split=False).remarks)


def test_both_readers_open_by_one_module() -> None:
    """Nothing private of one module is imported by another."""
    for path in (Path(__file__).parent.parent / "src/voxstrata/audio").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
