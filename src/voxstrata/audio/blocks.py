"""A recording in blocks: what is too long to be held at once is decoded piece by piece, as often as asked."""

from __future__ import annotations

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

from voxstrata.audio.clicks import without_clicks
from voxstrata.audio.content import Remark, downmix
from voxstrata.audio.ffmpeg import Undecodable, open_av
from voxstrata.audio.kinds import Kind
from voxstrata.audio.opening import (
    BLOCK,
    LENGTH_UNKNOWN,
    RAW_SAMPLE_RATE,
    InOrder,
    check_rate,
    opened_recording,
    opened_soundfile,
    raw_samples,
    shown,
    soundfile_blocks,
)
from voxstrata.audio.quiet import quiet
from voxstrata.errors import AudioError

#: Bytes of a headerless file from which its byte order is known.
_RAW_HEAD = 1 << 20

Block = NDArray[np.float32]


@dataclass(frozen=True)
class SoundBlocks:
    """An open recording.

    Args:
        sample_rate: in Hz.
        channels: of the recording.
        frames: samples of each channel, as the header has it; None where it does not.
        remarks: what one should know of the file; complete when all blocks were read.
        blocks: [n, channels] each, once.
    """

    sample_rate: int
    channels: int
    frames: int | None
    remarks: list[Remark]
    blocks: Iterator[Block]


@contextmanager
def sound_blocks(path: Path) -> Iterator[SoundBlocks]:
    """Opens a recording of any length; the same files are read, and the same refused, as by `read_sound`.

    Args:
        path: an audio file, or a place in a tar.

    Raises:
        AudioError: whatever is wrong with it, in one line; also while its blocks are read.
    """
    with opened_recording(path) as given:
        if given.claim is None:
            yield _of_raw(path, given.file)
            return
        files, in_order = given.parts, given.claim.in_order
        with _decoder(path, files[0], given.kind, in_order) as found:
            check_rate(path, found.sample_rate)
            blocks, frames = found.blocks, found.frames
            if len(files) > 1:
                blocks, frames = chain(blocks, _following(path, files[1:], given.kind, in_order, found)), None
            found.remarks[:0] = given.claim.remarks
            yield replace(found, frames=frames, blocks=_finite(path, blocks))


def _following(
    path: Path, files: Sequence[BinaryIO], kind: Kind, in_order: bool, first: SoundBlocks
) -> Iterator[Block]:
    """Recordings behind the first one in the same file, at its rate and with its channels."""
    for file in files:
        with _decoder(path, file, kind, in_order) as found:
            check_rate(path, found.sample_rate)
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
            first.remarks.extend(remark for remark in found.remarks if remark not in first.remarks)


@contextmanager
def _decoder(path: Path, file: BinaryIO, kind: Kind, in_order: bool) -> Iterator[SoundBlocks]:
    """By libsndfile where it opens the file, else by FFmpeg."""
    with ExitStack() as stack:
        if kind.soundfile:
            try:
                with quiet():
                    sound = stack.enter_context(
                        opened_soundfile(file, InOrder if in_order else soundfile.SoundFile)
                    )
            except soundfile.SoundFileError:
                if kind.av is None:
                    raise
            else:
                frames = sound.frames if sound.frames < LENGTH_UNKNOWN else None
                blocks = _by_soundfile(path, sound, frames)
                yield SoundBlocks(sound.samplerate, sound.channels, frames, [], blocks)
                return
        if kind.av is None:
            raise Undecodable("no decoder reads it")
        found = stack.enter_context(open_av(file, shown(path), kind.av))
        frames = None if found.declared_s is None else round(found.declared_s * found.rate)
        yield SoundBlocks(found.rate, found.channels, frames, found.remarks, found.blocks)


def unclicked(block: Block, sample_rate: int) -> Block:
    """A block without clicks, see `audio.clicks`; the same where there are none."""
    cleaned = [without_clicks(channel, sample_rate) for channel in block.T]
    return np.stack(cleaned, axis=1) if any(after.base is not block for after in cleaned) else block


def _by_soundfile(path: Path, sound: soundfile.SoundFile, frames: int | None) -> Iterator[Block]:
    count, blocks = 0, soundfile_blocks(sound, None)
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


def _of_raw(path: Path, file: BinaryIO) -> SoundBlocks:
    """Headerless PCM: the byte order that makes the first minute smoother is taken for all of it."""
    samples = raw_samples(path, file)
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

    return SoundBlocks(RAW_SAMPLE_RATE, 1, samples, [], blocks())


def _finite(path: Path, blocks: Iterator[Block]) -> Iterator[Block]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(
                f"{shown(path)} holds samples that are not finite (NaN or infinite); leave it out or mend it"
            )
        yield block
