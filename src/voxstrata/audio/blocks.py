"""A recording in blocks: what is too long to be held at once is decoded piece by piece, as often as asked."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from voxstrata.audio.claims import claim_of
from voxstrata.audio.clicks import without_clicks
from voxstrata.audio.content import NotAudio, Remark, downmix
from voxstrata.audio.ffmpeg import _TELLS_LENGTH, Undecodable, _declared_s, _Gaps, _planes, _pyav, _Source
from voxstrata.audio.kinds import HEAD, RAW, UNKNOWN, Kind, kind_of, no_audio
from voxstrata.audio.quiet import quiet
from voxstrata.audio.reading import (
    _LENGTH_UNKNOWN,
    RAW_SAMPLE_RATE,
    _blocks,
    _check_rate,
    _InOrder,
    _one_line,
    _opened,
    _raw_sound,
    _soundfile,
    shown,
)
from voxstrata.audio.spliced import Spliced
from voxstrata.errors import AudioError

#: Frames of a block, at most.
BLOCK = 1 << 17
#: A stream may end by so much before its header says, as in `ffmpeg`.
_SLACK_S, _SLACK = 0.1, 0.01
#: Bytes of a headerless file from which its byte order is told.
_RAW_HEAD = 1 << 20

Block = NDArray[np.float32]


@dataclass(frozen=True)
class SoundBlocks:
    """An open recording.

    Args:
        sample_rate: in Hz.
        channels: of the recording.
        frames: samples of each channel, as the header has it; None where it does not.
        remarks: what one should know of the file.
        blocks: [n, channels] each, once.
    """

    sample_rate: int
    channels: int
    frames: int | None
    remarks: tuple[Remark, ...]
    blocks: Iterator[Block]


@contextmanager
def sound_blocks(path: Path) -> Iterator[SoundBlocks]:
    """Opens a recording of any length; the same files are read, and the same refused, as by `read_sound`.

    Args:
        path: an audio file, or a place in a tar.

    Raises:
        AudioError: whatever is wrong with it, in one line; also while its blocks are read.
    """
    with _one_line(path), _opened(path) as file:
        file.seek(0)
        head = file.read(HEAD)
        if not head:
            raise AudioError(f"{shown(path)} is an empty file (0 bytes); copy it again, or leave it out")
        if (what := no_audio(head)) is not None:
            raise NotAudio(f"{shown(path)} is {what}")
        kind = kind_of(file, path.suffix.lower())
        if kind is UNKNOWN and path.suffix.lower() == RAW:
            yield _of_raw(path, file)
            return
        claim = claim_of(file, kind.name)
        if claim.fault:
            raise AudioError(f"{shown(path)} {claim.fault}")
        files: list[BinaryIO] = [io.BufferedReader(Spliced(file, part)) for part in claim.parts] or [file]
        with _decoder(path, files[0], kind, claim.in_order) as found:
            _check_rate(path, found.sample_rate)
            blocks = found.blocks
            if len(files) > 1:
                found = replace(found, frames=None)
                blocks = chain(blocks, _following(path, files[1:], kind, claim.in_order, found))
            yield replace(found, remarks=claim.remarks, blocks=_finite(path, blocks))


def _following(
    path: Path, files: Sequence[BinaryIO], kind: Kind, in_order: bool, first: SoundBlocks
) -> Iterator[Block]:
    """Recordings behind the first one in the same file, at its rate and with its channels."""
    for file in files:
        with _decoder(path, file, kind, in_order) as found:
            _check_rate(path, found.sample_rate)
            stream = None
            if found.sample_rate != first.sample_rate:
                stream = soxr.ResampleStream(found.sample_rate, first.sample_rate, first.channels)
            for block in found.blocks:
                same = block
                if found.channels != first.channels:
                    same = np.repeat(downmix(block)[0][:, None], first.channels, axis=1)
                yield same if stream is None else stream.resample_chunk(same)
            if stream is not None:
                yield stream.resample_chunk(np.zeros((0, first.channels), np.float32), last=True)


@contextmanager
def _decoder(path: Path, file: BinaryIO, kind: Kind, in_order: bool) -> Iterator[SoundBlocks]:
    """By libsndfile where it opens the file, else by FFmpeg."""
    with ExitStack() as stack:
        if kind.soundfile:
            try:
                with quiet():
                    sound = stack.enter_context(
                        _soundfile(file, _InOrder if in_order else soundfile.SoundFile)
                    )
            except soundfile.SoundFileError:
                if kind.av is None:
                    raise
            else:
                frames = sound.frames if sound.frames < _LENGTH_UNKNOWN else None
                blocks = _by_soundfile(path, sound, frames)
                yield SoundBlocks(sound.samplerate, sound.channels, frames, (), blocks)
                return
        if kind.av is None:
            raise Undecodable("no decoder reads it")
        yield stack.enter_context(_by_av(path, file, kind.av))


def unclicked(block: Block, sample_rate: int) -> Block:
    """A block without clicks, see `audio.clicks`; the same where there are none."""
    cleaned = [without_clicks(channel, sample_rate) for channel in block.T]
    return np.stack(cleaned, axis=1) if any(after.base is not block for after in cleaned) else block


def _by_soundfile(path: Path, sound: soundfile.SoundFile, frames: int | None) -> Iterator[Block]:
    count, blocks = 0, _blocks(sound, None)
    while True:
        with quiet():
            block = next(blocks, None)
        if block is None:
            break
        count += len(block)
        yield block
    if sound.format == "FLAC" and frames is not None and count < frames:
        held = f"{count} of {frames} samples"
        raise AudioError(f"{shown(path)} breaks off, or is damaged, after {held}; copy it again")


@contextmanager
def _by_av(path: Path, file: BinaryIO, av_format: str) -> Iterator[SoundBlocks]:
    name = shown(path)
    av = _pyav(name)
    file.seek(0)
    try:
        with av.open(_Source(file), format=av_format, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no audio stream; leave it out")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise Undecodable("there is no decoder for its codec")
            declared_s = _declared_s(container, stream) if av_format in _TELLS_LENGTH else None
            parts = (
                (part.sample_rate, part.to_ndarray().T) for part in _planes(av, container, stream, _Gaps())
            )
            # The first part has the rate and the channels: of some codecs the header has others.
            first = next(parts, (stream.rate or 0, np.zeros((0, max(1, stream.channels)), np.float32)))
            rate, channels = first[0], first[1].shape[1]
            frames = None if declared_s is None else round(declared_s * rate)
            blocks = _checked(name, chain([first], parts), frames, av.error.FFmpegError)
            yield SoundBlocks(rate, channels, frames, (), blocks)
    except av.error.FFmpegError as fault:
        raise Undecodable(fault.strerror or str(fault)) from None


def _checked(
    name: str, parts: Iterator[tuple[int, Block]], frames: int | None, broken: type[OSError]
) -> Iterator[Block]:
    """The samples of decoded parts, each with its rate.

    Args:
        name: of the recording.
        parts: the first of them has the rate and the channels of all.
        frames: that the header declares; None where it does not.
        broken: what FFmpeg raises.
    """
    count, rate, channels = 0, 0, 0
    try:
        for part_rate, block in parts:
            rate, channels = rate or part_rate, channels or block.shape[1]
            if (part_rate, block.shape[1]) != (rate, channels):
                raise AudioError(
                    f"{name} changes its rate or its channels after {count / max(1, rate):.1f} s; convert it "
                    "to wav or flac"
                )
            count += len(block)
            yield np.ascontiguousarray(block, dtype=np.float32)
    except broken as fault:
        raise AudioError(
            f"{name} breaks off, or is broken, after {count / max(1, rate):.1f} s "
            f"({fault.strerror or fault}); copy it again"
        ) from None
    if frames is not None and rate and count < frames * (1 - _SLACK) - _SLACK_S * rate:
        raise AudioError(
            f"{name} breaks off: {count / rate:.1f} of {frames / rate:.1f} s of sound; copy it again"
        )


def _of_raw(path: Path, file: BinaryIO) -> SoundBlocks:
    """Headerless PCM: the byte order that makes the first minute smoother is taken for all of it."""
    size = file.seek(0, 2)
    if size % 2:
        _raw_sound(path, file)
    file.seek(0)
    head = file.read(_RAW_HEAD)
    smooth = {
        order: float(np.abs(np.diff(np.frombuffer(head, order).astype(np.float32))).sum(dtype=np.float64))
        for order in (">i2", "<i2")
    }
    order = min(smooth, key=smooth.__getitem__)

    def blocks() -> Iterator[Block]:
        file.seek(0)
        while content := file.read(2 * BLOCK):
            yield np.frombuffer(content, order).astype(np.float32)[:, None] / np.float32(32768)

    return SoundBlocks(RAW_SAMPLE_RATE, 1, size // 2, (), blocks())


def _finite(path: Path, blocks: Iterator[Block]) -> Iterator[Block]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(
                f"{shown(path)} holds samples that are not finite (NaN or infinite); leave it out or mend it"
            )
        yield block
