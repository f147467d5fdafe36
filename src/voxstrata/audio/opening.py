"""How a recording is opened, to be read at once or in blocks: its kind, its claims, where its sound lies."""

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
from numpy.typing import NDArray

from voxstrata.audio.claim import Claim
from voxstrata.audio.claims import claim_of
from voxstrata.audio.content import NotAudio
from voxstrata.audio.ffmpeg import CUT_IT, Undecodable
from voxstrata.audio.kinds import HEAD, RAW, UNKNOWN, Kind, kind_of, no_audio
from voxstrata.audio.spliced import Spliced
from voxstrata.errors import AudioError

#: Headerless files are 16-bit mono PCM at this rate, in Hz, as AN4 ships them.
RAW_SAMPLE_RATE = 16_000

#: Rates that a recording may have, in Hz: what a header claims beyond them is no sound of a voice.
#: Recorders go to 384 kHz; FLAC can claim 655,350 Hz, and does where the field is broken.
LOWEST_RATE, HIGHEST_RATE = 2_000, 384_000

#: Frames that are decoded at a time where a header's count is not to be believed.
BLOCK = 1 << 17
#: libsndfile's count of frames where it knows none.
LENGTH_UNKNOWN = 2**62
#: A FLAC stream in a tar: FILE.tar#OFFSET:BYTES.flac.
_IN_TAR = re.compile(r"(.+\.tar)#(\d{1,18}):(\d{1,18})\.flac")


@dataclass(frozen=True)
class Opened:
    """A recording whose head was looked at.

    Args:
        file: all of it.
        kind: by its content.
        claim: of its header, held against what is there; None of headerless PCM.
        parts: where its sound lies: one file, or several that were joined, one after the other.
    """

    file: BinaryIO
    kind: Kind
    claim: Claim | None
    parts: Sequence[BinaryIO]


@contextmanager
def opened_recording(path: Path) -> Iterator[Opened]:
    """Opens a recording; whatever fails within is an `AudioError` of one line that names it.

    Args:
        path: an audio file, or a place in a tar.
    """
    with one_line(path), _opened(path) as file:
        file.seek(0)
        head = file.read(HEAD)
        if not head:
            raise AudioError(f"{shown(path)} is an empty file (0 bytes); copy it again, or leave it out")
        if (what := no_audio(head)) is not None:
            raise NotAudio(f"{shown(path)} is {what}")
        suffix = path.suffix.lower()
        kind = kind_of(file, suffix)
        if kind is UNKNOWN and suffix == RAW:
            yield Opened(file, kind, None, (file,))
            return
        claim = claim_of(file, kind.name)
        if claim.fault:
            raise AudioError(f"{shown(path)} {claim.fault}")
        parts: list[BinaryIO] = [io.BufferedReader(Spliced(file, part)) for part in claim.parts] or [file]
        yield Opened(file, kind, claim, parts)


def raw_samples(path: Path, file: BinaryIO) -> int:
    """How many samples a file of headerless 16-bit PCM has.

    Raises:
        AudioError: if it has half a sample.
    """
    size = file.seek(0, 2)
    if size % 2:
        raise AudioError(
            f"{shown(path)} has an odd number of bytes ({size}); .raw means 16-bit mono PCM at 16 kHz"
        )
    return size // 2


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
def one_line(path: Path) -> Iterator[None]:
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


class InOrder(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning on; soundfile itself seeks the next place after each read."""

    def seekable(self) -> bool:
        """It is not, as far as soundfile knows."""
        return False


def opened_soundfile(file: BinaryIO, reader: type[soundfile.SoundFile]) -> soundfile.SoundFile:
    """A file as libsndfile opens it, from its beginning."""
    file.seek(0)
    if os.name == "posix" and isinstance(file, io.FileIO):
        return reader(file.fileno(), closefd=False)
    return reader(file)


def soundfile_blocks(file: soundfile.SoundFile, wanted: int | None) -> Iterator[NDArray[np.float32]]:
    """The same in blocks [n, channels]; a FLAC that is cut or damaged ends there."""
    count = 0
    while wanted is None or count < wanted:
        size = BLOCK if wanted is None else min(BLOCK, wanted - count)
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


def check_rate(path: Path, rate: int) -> None:
    """Refuses a rate that no recording of a voice has.

    Raises:
        AudioError: naming the rates that are read.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{shown(path)} says that it has {rate:,} samples a second; a voice is recorded with "
            f"{LOWEST_RATE:,} to {HIGHEST_RATE:,}: mend its header, or leave it out"
        )
