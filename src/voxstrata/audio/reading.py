"""Recordings on disk to samples: every path into voxstrata decodes here, and every fault is one line."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from voxstrata.audio.claims import claim_of
from voxstrata.audio.clicks import remarks_on_clicks, without_clicks
from voxstrata.audio.content import NotAudio, Remark, downmix, remarks_on_steps, require_sound
from voxstrata.audio.ffmpeg import CUT_IT, MissingPyAV, Undecodable, decode_av
from voxstrata.audio.kinds import HEAD, RAW, UNKNOWN, Kind, kind_of, no_audio
from voxstrata.audio.quiet import quiet
from voxstrata.audio.spliced import Spliced
from voxstrata.audio.waveform import leveled, resample
from voxstrata.errors import AudioError

#: Headerless files are 16-bit mono PCM at this rate, in Hz, as AN4 ships them.
RAW_SAMPLE_RATE = 16_000

#: Rates that a recording may have, in Hz: what a header claims beyond them is no sound of a voice.
#: Recorders go to 384 kHz; FLAC can claim 655,350 Hz, and does where the field is broken.
LOWEST_RATE, HIGHEST_RATE = 2_000, 384_000

#: Samples of all channels that are read at once, at most: 9 hours at 16 kHz, 2 GiB.
MOST_VALUES = 2**29

# Frames that are decoded at a time where a header's count is not to be believed.
_BLOCK = 1 << 17
# libsndfile's count of frames where it knows none.
_LENGTH_UNKNOWN = 2**62
# What these subtypes hold follows from the bytes that are there.
_EXACT = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")

#: A FLAC stream in a tar: FILE.tar#OFFSET:BYTES.flac.
_IN_TAR = re.compile(r"(.+\.tar)#(\d{1,18}):(\d{1,18})\.flac")


@dataclass(frozen=True, eq=False)
class Sound:
    """What a file holds, neither mixed nor resampled.

    Args:
        samples: [N, channels].
        sample_rate: in Hz.
        remarks: what one should know of the file.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    remarks: tuple[Remark, ...] = ()

    def mono(self, name: str) -> tuple[NDArray[np.float32], tuple[Remark, ...]]:
        """One channel [N] at the file's rate that holds sound, without clicks, and all remarks.

        Raises:
            NoSound: if there are no samples, or silence alone, with or without clicks in it.
        """
        samples = self.samples
        if samples.shape[1] > 1:
            cleaned = [without_clicks(channel, self.sample_rate) for channel in samples.T]
            if any(after.base is not samples for after in cleaned):
                samples = np.stack(cleaned, axis=1)
        mixed, remarks = downmix(samples)
        # Also of channels that hold nothing else, and so kept them.
        mono = without_clicks(mixed, self.sample_rate)
        require_sound(name, mono, self.sample_rate)
        remarks += remarks_on_clicks(self.samples, samples) or remarks_on_clicks(mixed, mono)
        return mono, self.remarks + remarks + remarks_on_steps(mono)


def load_audio(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> NDArray[np.float32]:
    """Reads a recording, or a stretch of it, as mono at 16 kHz, `leveled`.

    Args:
        path: an audio file, or a place in a tar (see `corpora.shar`); see `downmix` for its channels.
        offset_s: where to start, in seconds.
        duration_s: how much to read at most, in seconds; None reads to the end.

    Returns:
        Samples [N], nominally in [-1, 1].

    Raises:
        AudioError: if the file is missing, breaks off, cannot be decoded, holds nothing or only silence in
            the stretch asked for, or holds values that are not finite.
    """
    return load_with_remarks(path, offset_s=offset_s, duration_s=duration_s)[0]


def load_with_remarks(
    path: Path, *, offset_s: float = 0.0, duration_s: float | None = None
) -> tuple[NDArray[np.float32], tuple[Remark, ...]]:
    """As `load_audio`, and what one should know of the recording."""
    sound = read_sound(path, offset_s=offset_s, duration_s=duration_s)
    part = f"{shown(path)} from {offset_s:g} s on" if offset_s else shown(path)
    mono, remarks = sound.mono(part)
    with _one_line(path):
        return resample(leveled(mono), sound.sample_rate), remarks


def decode(
    path: Path, *, offset_s: float = 0.0, duration_s: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """Samples [N, channels] as `read_sound` gives them, and the sample rate in Hz."""
    sound = read_sound(path, offset_s=offset_s, duration_s=duration_s)
    return sound.samples, sound.sample_rate


def read_sound(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> Sound:
    """Samples as the file holds them: neither mixed nor resampled; an empty recording gives N = 0.

    The content of the file tells what it is; its suffix is a hint. What the header claims is held against
    what is there.

    Args:
        path: an audio file, or a place in a tar.
        offset_s: where to start, in seconds.
        duration_s: how much to read at most, in seconds.

    Raises:
        AudioError: whatever is wrong with it, in one line.
    """
    if not 0 <= offset_s < np.inf or (duration_s is not None and not duration_s > 0):
        raise AudioError(
            f"a stretch starts at 0 s or later and lasts; asked for {duration_s} s from {offset_s} s"
        )
    with _one_line(path), _opened(path) as file:
        file.seek(0)
        head = file.read(HEAD)
        if not head:
            raise AudioError(f"{shown(path)} is an empty file (0 bytes); copy it again, or leave it out")
        if (what := no_audio(head)) is not None:
            raise NotAudio(f"{shown(path)} is {what}")
        suffix = path.suffix.lower()
        kind = kind_of(file, suffix)
        if kind is UNKNOWN and suffix == RAW:
            return _stretch(_raw_sound(path, file), offset_s, duration_s)
        claim = claim_of(file, kind.name)
        if claim.fault:
            raise AudioError(f"{shown(path)} {claim.fault}")
        files: list[BinaryIO] = [io.BufferedReader(Spliced(file, part)) for part in claim.parts] or [file]
        if len(files) == 1:
            sound = _decoded(path, files[0], kind, offset_s, duration_s, claim.in_order)
        else:
            parts = [_decoded(path, part, kind, 0.0, None, claim.in_order) for part in files]
            sound = _stretch(_one_after_the_other(path, parts), offset_s, duration_s)
    if not np.isfinite(sound.samples).all():
        raise AudioError(
            f"{shown(path)} holds samples that are not finite (NaN or infinite); leave it out or mend it"
        )
    return Sound(sound.samples, sound.sample_rate, claim.remarks + sound.remarks)


def audio_file(path: Path) -> Path:
    """The file that a recording lies in: itself, or the tar that it is a part of.

    >>> audio_file(Path("a/recording.000000.tar#1536:2048.flac")).name
    'recording.000000.tar'
    """
    place = _place_in_tar(path)
    return path if place is None else Path(place[1])


def shown(path: Path) -> str:
    """A path for a message: what would not print in one line is escaped."""
    text = str(path)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _place_in_tar(path: Path) -> re.Match[str] | None:
    place = _IN_TAR.fullmatch(str(path))
    try:
        # A file may be called so.
        return None if place is None or path.is_file() else place
    except OSError:
        return None


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Any failure within is an `AudioError` of one line that names the recording."""
    name = shown(path)
    try:
        yield
    except AudioError:
        raise
    except MemoryError:
        raise AudioError(f"{name} is too long for the memory there is; {CUT_IT}") from None
    except Undecodable as fault:
        raise _undecodable(name, str(fault)) from None
    except soundfile.SoundFileError as fault:
        reason = str(fault).rsplit(": ", 1)[-1]
        # So libsndfile calls what it takes for MP3, and is none.
        raise _undecodable(name, "" if "does not exist" in reason else reason) from None
    except OSError as fault:
        raise AudioError(
            f"cannot read {name}: {fault.strerror or fault}; leave it out, or make it readable"
        ) from None
    except Exception as fault:
        raise _undecodable(name, f"{type(fault).__name__}: {fault}") from None


def _undecodable(name: str, reason: str) -> NotAudio:
    reason = " ".join(reason.split()).rstrip(".") or "broken or not audio"
    return NotAudio(f"cannot decode {name}: {reason}; convert it to wav or flac, or leave it out")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, or of a place in a tar the bytes there."""
    place = _place_in_tar(path)
    lies_in = path if place is None else Path(place[1])
    try:
        mode = lies_in.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        is_link = lies_in.is_symlink()
        link = f": it is a link to {shown(lies_in.readlink())}, which is not there" if is_link else ""
        raise AudioError(f"no file at {shown(lies_in)}{link}") from None
    except ValueError:
        raise AudioError(f"no file can be called {shown(lies_in)}; give the path of a recording") from None
    if stat.S_ISDIR(mode):
        # Says so where it may not be looked into.
        os.scandir(lies_in).close()
    if not stat.S_ISREG(mode):
        raise AudioError(f"{shown(lies_in)} is not a file; give a recording")
    # Without a buffer of Python's, for libsndfile reads from the same descriptor.
    with lies_in.open("rb", buffering=0) as file:
        if place is None:
            yield file
            return
        offset, size = int(place[2]), int(place[3])
        end = file.seek(0, 2)
        file.seek(offset)
        yield io.BytesIO(file.read(max(0, min(size, end - offset))))


def _one_after_the_other(path: Path, parts: Sequence[Sound]) -> Sound:
    """Recordings joined, at the rate and with the channels of the first."""
    rate, channels = parts[0].sample_rate, parts[0].samples.shape[1]
    samples: list[NDArray[np.float32]] = []
    for part in parts:
        same = part.samples
        if same.shape[1] != channels:
            same = np.repeat(downmix(same)[0][:, None], channels, axis=1)
        if part.sample_rate != rate and len(same):
            same = soxr.resample(same, part.sample_rate, rate)
        samples.append(same)
    _check_length(path, sum(map(len, samples)), MOST_VALUES // channels)
    return Sound(np.concatenate(samples), rate, tuple({r: None for part in parts for r in part.remarks}))


def _decoded(
    path: Path, file: BinaryIO, kind: Kind, offset_s: float, duration_s: float | None, in_order: bool
) -> Sound:
    """By libsndfile where it opens the file and reads it, else by FFmpeg."""
    fault: soundfile.SoundFileError | None = None
    is_open = False
    if kind.soundfile:
        try:
            with quiet(), _soundfile(file, _InOrder if in_order else soundfile.SoundFile) as opened:
                is_open = True
                return _of_soundfile(path, opened, offset_s, duration_s)
        except soundfile.SoundFileError as refused:
            fault = refused
    if kind.av is None:
        raise fault or Undecodable("no decoder reads it")
    try:
        samples, rate, remarks = decode_av(file, shown(path), kind.av, MOST_VALUES)
    except (Undecodable, MissingPyAV) as refused:
        # What libsndfile opens is of its kind, but broken.
        if fault is not None and (is_open or isinstance(refused, Undecodable)):
            raise fault from None
        raise
    _check_rate(path, rate)
    return _stretch(Sound(samples, rate, remarks), offset_s, duration_s)


class _InOrder(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning on; soundfile itself seeks the next place after each read."""

    def seekable(self) -> bool:
        return False


def _soundfile(file: BinaryIO, reader: type[soundfile.SoundFile]) -> soundfile.SoundFile:
    file.seek(0)
    if os.name == "posix" and isinstance(file, io.FileIO):
        return reader(file.fileno(), closefd=False)
    return reader(file)


def _of_soundfile(path: Path, file: soundfile.SoundFile, offset_s: float, duration_s: float | None) -> Sound:
    _check_rate(path, file.samplerate)
    start = round(offset_s * file.samplerate)
    wanted = None if duration_s is None or duration_s == np.inf else round(duration_s * file.samplerate)
    known = file.frames < _LENGTH_UNKNOWN
    if known and start >= file.frames:
        return Sound(np.zeros((0, file.channels), np.float32), file.samplerate)
    if file.seekable() and known:
        left = file.frames - start
        if start:
            file.seek(start)
            start = 0
        wanted = left if wanted is None else min(wanted, left)
    most = MOST_VALUES // file.channels
    if file.subtype in _EXACT and file.format != "FLAC" and wanted is not None:
        _check_length(path, wanted, most)
        return Sound(file.read(wanted, dtype="float32", always_2d=True), file.samplerate)
    samples = _in_blocks(path, file, None if wanted is None else start + wanted, most)
    # FLAC counts its samples; of other compressed streams the count is an estimate.
    if known and file.format == "FLAC" and wanted is not None and len(samples) < wanted:
        held = f"{len(samples)} of {wanted} samples"
        raise AudioError(f"{shown(path)} breaks off, or is damaged, after {held}; copy it again")
    return Sound(samples[start:], file.samplerate)


def _in_blocks(path: Path, file: soundfile.SoundFile, wanted: int | None, most: int) -> NDArray[np.float32]:
    """Frames from where the file stands, up to `wanted` or the end, whatever its header says of it."""
    blocks, count = list[NDArray[np.float32]](), 0
    for block in _blocks(file, wanted):
        blocks.append(block)
        count += len(block)
        _check_length(path, count, most)
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.zeros((0, file.channels), np.float32)


def _blocks(file: soundfile.SoundFile, wanted: int | None) -> Iterator[NDArray[np.float32]]:
    """The same in blocks [n, channels]; a FLAC that is cut or damaged ends there."""
    count = 0
    while wanted is None or count < wanted:
        size = _BLOCK if wanted is None else min(_BLOCK, wanted - count)
        # Where FLAC ends before its header says, libsndfile gives the last samples with a fault, and
        # soundfile does not say how many there were.
        block = np.full((size, file.channels), np.nan, np.float32)
        try:
            got = len(file.read(out=block))
        except soundfile.SoundFileError:
            unread = np.isnan(block).all(axis=1)
            got = int(unread.argmax()) if unread.any() else size
            if file.format != "FLAC" or not got + count:
                raise
            yield block[:got]
            return
        if not got:
            return
        yield block[:got]
        count += got


def _check_rate(path: Path, rate: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{shown(path)} says that it has {rate:,} samples a second; a voice is recorded with "
            f"{LOWEST_RATE:,} to {HIGHEST_RATE:,}: mend its header, or leave it out"
        )


def _check_length(path: Path, frames: int, most: int) -> None:
    if frames > most:
        raise AudioError(f"{shown(path)} holds more than {most:,} samples a channel; {CUT_IT}")


def _stretch(sound: Sound, offset_s: float, duration_s: float | None) -> Sound:
    start = round(offset_s * sound.sample_rate)
    whole = duration_s is None or duration_s == np.inf
    stop = None if whole or duration_s is None else start + round(duration_s * sound.sample_rate)
    return Sound(sound.samples[start:stop], sound.sample_rate, sound.remarks)


def _raw_sound(path: Path, file: BinaryIO) -> Sound:
    """Headerless 16-bit mono PCM, [N, 1].

    AN4 is shipped in both byte orders under the same names. Read in the wrong one, speech turns into
    noise that jumps from sample to sample: the smoother reading is the right one.
    """
    size = file.seek(0, 2)
    if size % 2:
        raise AudioError(
            f"{shown(path)} has an odd number of bytes ({size}); .raw means 16-bit mono PCM at 16 kHz"
        )
    _check_length(path, size // 2, MOST_VALUES)
    file.seek(0)
    content = file.read()
    readings = [np.frombuffer(content, order).astype(np.float32) for order in (">i2", "<i2")]
    smoothest = min(readings, key=lambda samples: float(np.abs(np.diff(samples)).sum(dtype=np.float64)))
    return Sound(smoothest[:, None] / np.float32(32768), RAW_SAMPLE_RATE)
