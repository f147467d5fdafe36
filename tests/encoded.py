"""Recordings in compressed formats, made in a test."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile

RATE = 16_000
#: Samples that an encoder takes at once, of those that do not take 1024.
FRAME_SIZES = {"libmp3lame": 1152, "mp2": 1152, "libopus": 960, "ac3": 1536, "eac3": 1536}


def voice(seconds: float = 2.0, seed: int = 0, hz: float = 200.0) -> np.ndarray:
    """A tone that swells, with noise: every stretch differs from all others."""
    time = np.arange(round(seconds * RATE)) / RATE
    swelling = np.sin(2 * np.pi * hz * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
    return 0.15 * swelling + 0.01 * np.random.default_rng(seed).normal(size=len(time))


def encoded(form: str, subtype: str | None = None, samples: Any = None, rate: int = RATE) -> bytes:
    """A file as libsndfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, voice() if samples is None else samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def av_encoded(form: str, codec: str, samples: Any = None, rate: int = 48_000, **options: str) -> bytes:
    """A file as FFmpeg writes it; the test is skipped without PyAV."""
    av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    samples = voice() if samples is None else samples
    file = io.BytesIO()
    with av.open(file, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="flt", layout="mono")
        frame.sample_rate = RATE
        frame_size = FRAME_SIZES.get(codec, 1024)
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate, frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def ogg_flac(samples: Any) -> bytes:
    """FLAC in Ogg, which libsndfile does not write."""
    av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(encoded("FLAC", "PCM_16", samples))) as source,
        av.open(file, "w", "ogg") as target,
    ):
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return file.getvalue()


def without_count(content: bytes) -> bytes:
    """An MP3 file of libsndfile without its first frame, which counts the others."""
    mark = content.index(b"Info") if b"Info" in content[:200] else content.index(b"Xing")
    return content[content.index(content[:2], mark) :]
