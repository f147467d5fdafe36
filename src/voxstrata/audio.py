"""Recordings on disk to mono samples at 16 kHz: every path into voxstrata decodes here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from voxstrata.errors import AudioError

#: Rate of all waveforms in voxstrata, in Hz.
SAMPLE_RATE = 16_000

#: Headerless files are 16-bit mono PCM at this rate, in Hz, as AN4 ships them.
RAW_SAMPLE_RATE = 16_000

#: Containers that libsndfile does not open; PyAV (the extra `av`) does.
AV_SUFFIXES = frozenset({".aac", ".m4a", ".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma"})

#: Everything that `load_audio` may be given, by suffix.
AUDIO_SUFFIXES = AV_SUFFIXES | {
    ".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".raw", ".sph", ".wav",
}  # fmt: skip

#: A recording with a lower peak than this share of full scale is too quiet for 16 bits.
QUIET = 1e-3

# Sizes from here on, and 0, are written into a WAV header by those who stream and do not know the length.
_SIZE_UNKNOWN = 0x7FFFF000

# What libsndfile gives as the number of frames of a FLAC stream that was written into a pipe.
_LENGTH_UNKNOWN = 2**62

#: A FLAC stream in a tar: FILE.tar#OFFSET:BYTES.flac.
_IN_TAR = re.compile(r"(.+\.tar)#(\d+):(\d+)\.flac")


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds, before any resampling.

    Args:
        duration_s: length in seconds.
        samples: samples per channel, at the file's own rate.
        sample_rate: in Hz.
        channels: number of channels.
    """

    duration_s: float
    samples: int
    sample_rate: int
    channels: int


def load_audio(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> NDArray[np.float32]:
    """Reads a recording, or a stretch of it, as mono at 16 kHz, `leveled`.

    Args:
        path: an audio file, or a place in a tar (see `corpora.shar`); channels are averaged.
        offset_s: where to start, in seconds.
        duration_s: how much to read at most, in seconds; None reads to the end.

    Returns:
        Samples [N], nominally in [-1, 1].

    Raises:
        AudioError: if the file is missing, breaks off, cannot be decoded, holds nothing in the stretch asked
            for, or holds values that are not finite.
    """
    samples, sample_rate = decode(path, offset_s=offset_s, duration_s=duration_s)
    if not len(samples):
        raise AudioError(f"{path} holds no samples from {offset_s:g} s on; leave the file out or mend it")
    return resample(leveled(downmix(samples)), sample_rate)


def audio_info(path: Path) -> AudioInfo:
    """Length, rate and channels of a file, from its header where it has one.

    Raises:
        AudioError: if the file is missing or is not audio.
    """
    _check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".raw" or suffix in AV_SUFFIXES:
        samples, sample_rate = decode(path)
        length, channels = samples.shape
    else:
        with _soundfile(path) as header:
            length, sample_rate, channels = header.frames, header.samplerate, header.channels
    return AudioInfo(length / sample_rate, length, sample_rate, channels)


def decode(
    path: Path, *, offset_s: float = 0.0, duration_s: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """Samples as the file holds them: neither mixed nor resampled; an empty file gives N = 0.

    Args:
        path: an audio file.
        offset_s: where to start, in seconds.
        duration_s: how much to read at most, in seconds.

    Returns:
        Samples [N, channels] and the file's sample rate in Hz.

    Raises:
        AudioError: if the file is missing, cannot be decoded or holds values that are not finite.
    """
    if offset_s < 0 or (duration_s is not None and duration_s <= 0):
        raise AudioError(
            f"a stretch starts at 0 s or later and lasts; asked for {duration_s} s from {offset_s} s"
        )
    _check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".raw":
        samples, sample_rate = _decode_raw(path), RAW_SAMPLE_RATE
    elif suffix in AV_SUFFIXES:
        samples, sample_rate = _decode_av(path)
    else:
        samples, sample_rate = _decode_soundfile(path, offset_s, duration_s)
        offset_s, duration_s = 0.0, None
    start = round(offset_s * sample_rate)
    stop = None if duration_s is None else start + round(duration_s * sample_rate)
    samples = samples[start:stop]
    if not np.isfinite(samples).all():
        raise AudioError(
            f"{path} holds samples that are not finite (NaN or infinite); leave the file out or mend it"
        )
    return samples, sample_rate


def audio_file(path: Path) -> Path:
    """The file that a recording lies in: itself, or the tar that it is a part of.

    >>> audio_file(Path("a/recording.000000.tar#1536:2048.flac")).name
    'recording.000000.tar'
    """
    place = _IN_TAR.fullmatch(str(path))
    return path if place is None else Path(place[1])


def downmix(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over channels: [N, channels] to [N]."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)


def peak_of(samples: NDArray[np.float32]) -> float:
    """The largest magnitude; 0 where there are no samples."""
    return max(float(samples.max()), -float(samples.min())) if len(samples) else 0.0


def leveled(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mono samples [N]; those with a peak over full scale, or under `QUIET`, scaled to a peak of 1.

    Rounding to 16 bits would clip the former, such as floats on the scale of integers, and lose the latter.

    >>> leveled(np.float32([8000, -16000])), leveled(np.float32([0.25, -0.5]))
    (array([ 0.5, -1. ], dtype=float32), array([ 0.25, -0.5 ], dtype=float32))
    """
    peak = peak_of(samples)
    if peak == 0 or QUIET <= peak <= 1:
        return samples
    return (samples.astype(np.float64) / peak).astype(np.float32)


def resample(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Mono samples [N] at any rate to `resampled_length(N, sample_rate)` samples at 16 kHz."""
    if sample_rate == SAMPLE_RATE:
        return np.ascontiguousarray(samples, dtype=np.float32)
    length = resampled_length(len(samples), sample_rate)
    resampled = soxr.resample(samples, sample_rate, SAMPLE_RATE)[:length]
    return np.pad(resampled, (0, length - len(resampled))).astype(np.float32, copy=False)


def resampled_length(samples: int, sample_rate: int) -> int:
    """How many samples at 16 kHz come of `samples` at `sample_rate` Hz, known before decoding.

    >>> resampled_length(48_000, 48_000), resampled_length(3, 44_100)
    (16000, 1)
    """
    return (2 * samples * SAMPLE_RATE + sample_rate) // (2 * sample_rate)


def _check_file(path: Path) -> None:
    path = audio_file(path)
    if not path.exists():
        raise AudioError(f"no file at {path}")
    if not path.is_file():
        raise AudioError(f"{path} is not a file; give a recording")
    try:
        with path.open("rb") as file:
            head = file.read(24)
            heard, declared = _sound_bytes(file, head)
    except OSError as fault:
        raise AudioError(f"cannot read {path}: {fault.strerror}") from None
    if head.startswith(b"version https://git-lfs"):
        raise AudioError(f"{path} is a git-lfs pointer, not audio; run `git lfs pull` where it came from")
    # One byte less is a padding that was counted, but not written.
    if heard < declared - 1:
        raise AudioError(f"{path} breaks off: {heard} of {declared} bytes of sound; copy it again")


def _sound_bytes(file: BinaryIO, head: bytes) -> tuple[int, int]:
    """Bytes of sound in a WAV or AIFF file, and how many its header declares; (0, 0) where it does not.

    libsndfile takes what there is: a copy that was cut would be a shorter clip.
    """
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RIFX", b"RF64") and form == b"WAVE":
        sound = b"data"
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        sound = b"SSND"
    else:
        return 0, 0
    order: Literal["big", "little"] = "big" if kind in (b"FORM", b"RIFX") else "little"
    end, place, long_size = os.fstat(file.fileno()).st_size, 12, 0
    while place + 8 <= end:
        file.seek(place)
        chunk = file.read(24)
        size = int.from_bytes(chunk[4:8], order)
        if chunk[:4] == b"ds64":
            long_size = int.from_bytes(chunk[16:24], order)
        elif chunk[:4] == sound:
            if kind == b"RF64" and size == 0xFFFFFFFF:
                size = long_size if long_size < _LENGTH_UNKNOWN else 0
            elif size >= _SIZE_UNKNOWN:
                size = 0
            return min(size, end - place - 8), size
        place += 8 + size + size % 2
    return 0, 0


def _undecodable(path: Path, fault: Exception) -> AudioError:
    reason = str(fault).rsplit(": ", 1)[-1].strip().rstrip(".") or "broken or not audio"
    return AudioError(f"cannot decode {path}: {reason}; readable are {', '.join(sorted(AUDIO_SUFFIXES))}")


@contextmanager
def _soundfile(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(_opened(path)) as file:
            if file.frames >= _LENGTH_UNKNOWN:
                raise AudioError(f"{path} does not say how long it is; write it anew, e.g. with `ffmpeg -i`")
            yield file
    except soundfile.SoundFileError as fault:
        raise _undecodable(path, fault) from None


def _opened(path: Path) -> Path | bytes | BytesIO:
    """The path, where its name may be no text its bytes, or of a place in a tar the bytes there."""
    place = _IN_TAR.fullmatch(str(path))
    if place is None:
        return os.fsencode(path) if os.name == "posix" else path
    with Path(place[1]).open("rb") as tar:
        tar.seek(int(place[2]))
        return BytesIO(tar.read(int(place[3])))


def _decode_soundfile(
    path: Path, offset_s: float, duration_s: float | None
) -> tuple[NDArray[np.float32], int]:
    with _soundfile(path) as file:
        start = round(offset_s * file.samplerate)
        if start >= file.frames:
            return np.zeros((0, file.channels), np.float32), file.samplerate
        wanted = file.frames - start
        if duration_s is not None:
            wanted = min(wanted, round(duration_s * file.samplerate))
        file.seek(start)
        samples = file.read(wanted, dtype="float32", always_2d=True)
        # The frame count of a compressed stream may be an estimate; PCM and FLAC state it exactly.
        if len(samples) < wanted and file.format in ("WAV", "FLAC"):
            raise AudioError(f"{path} breaks off: {len(samples)} of {wanted} samples; copy it again")
        return samples, file.samplerate


def _decode_raw(path: Path) -> NDArray[np.float32]:
    """Headerless 16-bit mono PCM, [N, 1].

    AN4 is shipped in both byte orders under the same names. Read in the wrong one, speech turns into
    noise that jumps from sample to sample: the smoother reading is the right one.
    """
    content = path.read_bytes()
    if len(content) % 2:
        raise AudioError(
            f"{path} has an odd number of bytes ({len(content)}); .raw means 16-bit mono PCM at 16 kHz"
        )
    readings = [np.frombuffer(content, order).astype(np.float32) for order in (">i2", "<i2")]
    smoothest = min(readings, key=lambda samples: float(np.abs(np.diff(samples)).sum(dtype=np.float64)))
    return smoothest[:, None] / np.float32(32768)


def _decode_av(path: Path) -> tuple[NDArray[np.float32], int]:
    try:
        av = import_module("av")
    except ImportError:
        raise AudioError(
            f"{path} needs PyAV to be read; pip install 'voxstrata[av]', or convert it to wav or flac"
        ) from None
    chunks: list[NDArray[np.float32]] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} has no audio stream")
            stream = container.streams.audio[0]
            planar = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                chunks.extend(part.to_ndarray() for part in planar.resample(frame))
            chunks.extend(part.to_ndarray() for part in planar.resample(None))
            sample_rate, channels = stream.rate, stream.channels
    except av.error.FFmpegError as fault:
        raise _undecodable(path, fault) from None
    samples = np.concatenate(chunks, axis=1) if chunks else np.zeros((channels, 0), np.float32)
    return np.ascontiguousarray(samples.T, dtype=np.float32), sample_rate
