"""A recording in whatever form it is given, as mono samples at 16 kHz: all are looked at as files are."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxstrata.audio import Remark, Sound, leveled, load_with_remarks, resample, shown
from voxstrata.audio.blocks import SoundBlocks, sound_blocks
from voxstrata.audio.opening import BLOCK, HIGHEST_RATE, LOWEST_RATE
from voxstrata.errors import AudioError

#: Samples [N] or [channels, N].
Samples = NDArray[Any] | Tensor
#: What stands in a message for a recording without a name.
SAMPLES, BYTES, BLOCKS = "the array", "the bytes", "the blocks"
#: Bytes of an open file that are copied at once.
_COPIED = 1 << 20
_SUFFIX = re.compile(r"\.\w{1,8}")
# Full scale and zero of samples that are whole numbers.
_WHOLE = {"int16": (2.0**15, 0.0), "int32": (2.0**31, 0.0), "uint8": (2.0**7, 128.0)}


@dataclass(frozen=True)
class Given:
    """A recording that can be read at once, or in blocks, as often as asked.

    Args:
        name: for messages, and in rows.
        path: of the file that it lies in; None: `sound` holds it.
        sound: samples that were given.
        renamed: the file is a copy; messages name the recording.
    """

    name: str
    path: Path | None = None
    sound: Sound | None = None
    renamed: bool = False

    @property
    def has_name(self) -> bool:
        """Whether it lies in a file of its own."""
        return self.path is not None and not self.renamed

    def whole(self) -> tuple[NDArray[np.float32], tuple[Remark, ...]]:
        """Mono samples at 16 kHz [N], and what one should know of them.

        Raises:
            AudioError: see `audio.load_audio`.
        """
        if self.sound is not None:
            mono, remarks = self.sound.mono(self.name)
            return resample(leveled(mono), self.sound.sample_rate), remarks
        assert self.path is not None
        with self._named():
            return load_with_remarks(self.path)

    @contextmanager
    def blocks(self) -> Iterator[SoundBlocks]:
        """The recording in blocks, from its beginning.

        Raises:
            AudioError: see `audio.blocks.sound_blocks`.
        """
        if self.sound is not None:
            samples = self.sound.samples
            parts = (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))
            yield SoundBlocks(
                self.sound.sample_rate, samples.shape[1], len(samples), [*self.sound.remarks], parts
            )
            return
        assert self.path is not None
        with self._named(), sound_blocks(self.path) as found:
            yield found

    def is_longer_than(self, seconds: float) -> bool:
        """Whether it lasts longer; one that cannot be read does not: reading it gives the reason."""
        try:
            with self.blocks() as found:
                limit = seconds * found.sample_rate
                if found.frames is not None:
                    return found.frames > limit
                count = 0
                for block in found.blocks:
                    count += len(block)
                    if count > limit:
                        return True
        except AudioError:
            pass
        return False

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Messages name the recording, not the copy of it that is read."""
        try:
            yield
        except AudioError as fault:
            if not self.renamed:
                raise
            text = str(fault).replace(str(self.path), shown(Path(self.name)))
            raise type(fault)(text) from None


#: Blocks of one recording that is too long for memory, one after the other.
Blocks = Iterator[Samples]
#: A path, the bytes of an audio file, an open one, samples or blocks of them, these with their rate, or what
#: `given` gave.
Recording = str | Path | bytes | BinaryIO | Samples | Blocks | tuple[Samples | Blocks, float] | Given


def has_no_rate(recording: object) -> bool:
    """Whether a recording is samples, or blocks of them, whose rate must be told; an open file is none."""
    return isinstance(recording, np.ndarray | Tensor) or (
        isinstance(recording, Iterator) and not _is_readable(recording)
    )


def _is_readable(recording: object) -> bool:
    return callable(getattr(recording, "read", None))


@contextmanager
def given(recording: Recording, sample_rate: float | None = None) -> Iterator[Given]:
    """A recording in whatever form it is given; open files and bytes are copied to a file of their own.

    Args:
        recording: in any form.
        sample_rate: of samples, in Hz; a file has its own.

    Raises:
        AudioError: if it is of another form, or its rate is missing or not to be taken.
    """
    if isinstance(recording, Given):
        yield recording
        return
    if isinstance(recording, tuple):
        recording, sample_rate = _with_rate(recording, sample_rate)
    if isinstance(recording, np.ndarray | Tensor):
        yield Given(SAMPLES, sound=Sound(_channels(recording), _rate(sample_rate)))
        return
    readable = _is_readable(recording)
    if has_no_rate(recording):
        with tempfile.TemporaryDirectory(prefix="voxstrata-") as folder:
            path = Path(folder) / "recording.wav"
            _write_blocks(cast("Blocks", recording), _rate(sample_rate), path)
            yield Given(BLOCKS, path, renamed=True)
        return
    if not readable and not isinstance(recording, str | Path | bytes | bytearray | memoryview):
        raise AudioError(
            f"a recording is of type {type(recording).__name__}; give a path, the bytes of an audio file, an "
            "open file, or samples (numpy or torch, [N] or [channels, N]) with their sample_rate; many "
            "recordings go to Recognizer.predictions"
        )
    if sample_rate is not None:
        raise AudioError(f"sample_rate is {sample_rate}, and a file has its own; leave it out")
    if isinstance(recording, str | Path):
        yield Given(str(recording), Path(recording))
        return
    name, file = _named_file(recording) if readable else (BYTES, io.BytesIO(bytes(recording)))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="voxstrata-") as folder:
        # Its end is a hint at what it holds, where it is one that a file may have.
        suffix = Path(name).suffix
        path = Path(folder) / f"recording{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        _copy(file, path, name)
        yield Given(name, path, renamed=True)


def heard(
    recording: Recording, sample_rate: float | None = None
) -> tuple[NDArray[np.float32], tuple[Remark, ...], str]:
    """Mono samples at 16 kHz [N], what one should know of them, and a name for the recording.

    Args:
        recording: in any form.
        sample_rate: of samples, in Hz; a file has its own.

    Raises:
        AudioError: see `given`; or its content is refused as a file's would be.
    """
    with given(recording, sample_rate) as found:
        return *found.whole(), found.name


def _write_blocks(blocks: Blocks, sample_rate: int, path: Path) -> None:
    """Writes blocks of a recording to a file, so that they can be read as often as asked."""
    file: soundfile.SoundFile | None = None
    try:
        for block in blocks:
            if not isinstance(block, np.ndarray | Tensor):
                raise AudioError(
                    f"an iterator gave {type(block).__name__}; one recording is blocks of samples, and many "
                    "recordings go to Recognizer.predictions"
                )
            samples = _channels(block)
            if file is None:
                # Its header can count beyond 4 GB.
                options = {"format": "RF64", "subtype": "FLOAT"}
                file = soundfile.SoundFile(path, "w", sample_rate, samples.shape[1], **options)
            if samples.shape[1] != file.channels:
                raise AudioError(
                    f"blocks have {file.channels} and {samples.shape[1]} channels; give all of one recording"
                )
            file.write(samples)
    except soundfile.SoundFileError as fault:
        raise AudioError(
            f"cannot keep the blocks to read them: {fault}; free space in {path.parent}"
        ) from None
    finally:
        if file is not None:
            file.close()
    if file is None:
        raise AudioError("the iterator gave no samples; an iterator is used up once it was read")


def _with_rate(pair: tuple[Any, ...], sample_rate: float | None) -> tuple[Samples | Blocks, float]:
    """Samples and rate of a pair, as soundfile and torchaudio give them."""
    if len(pair) != 2 or not isinstance(pair[0], np.ndarray | Tensor | Iterator):
        held = ", ".join(type(part).__name__ for part in pair)
        raise AudioError(f"a recording is a tuple of ({held}); give (samples, sample_rate)")
    if sample_rate is not None and sample_rate != pair[1]:
        raise AudioError(f"sample_rate is {sample_rate}, and {pair[1]} beside the samples; give it once")
    return pair


def _named_file(file: Any) -> tuple[str, Any]:
    """An open file, and what to call it."""
    told = getattr(file, "name", None)
    return (told if isinstance(told, str) else "the open file"), file


def _copy(file: Any, path: Path, name: str) -> None:
    """Writes what an open file holds, from where it stands, to another one."""
    try:
        with path.open("wb") as copy:
            while True:
                try:
                    content = file.read(_COPIED)
                except (OSError, ValueError) as fault:
                    raise AudioError(f"cannot read {shown(Path(name))}: {fault}; open it again") from None
                if not isinstance(content, bytes):
                    raise AudioError(f"{shown(Path(name))} is open as text; open it as bytes ('rb')")
                if not content:
                    return
                copy.write(content)
    except OSError as fault:
        raise AudioError(
            f"cannot keep {shown(Path(name))} to read it: {fault.strerror}; free space in {path.parent}"
        ) from None


def _channels(samples: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    """Samples [N] or [channels, N] as float32 [N, channels], in [-1, 1] where they were whole numbers."""
    if isinstance(samples, Tensor):
        samples = _of_torch(samples)
    kind = str(samples.dtype.newbyteorder("="))
    if samples.dtype.kind != "f" and kind not in _WHOLE:
        raise AudioError(
            f"samples are {kind}; allowed are floats in [-1, 1] and {', '.join(_WHOLE)}: convert them"
        )
    shape = list(samples.shape)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= shape[0] <= max(shape[1], 1)):
        advice = "transpose them (samples.T)" if samples.ndim == 2 else "give one recording at a time"
        raise AudioError(f"samples have the shape {shape}; [N] or [channels, N] is needed: {advice}")
    with np.errstate(over="ignore", invalid="ignore"):
        if kind in _WHOLE:
            scale, zero = _WHOLE[kind]
            samples = (samples.astype(np.float64) - zero) / scale
        found: NDArray[np.float32] = np.atleast_2d(samples).T.astype(np.float32)
    if not np.isfinite(found).all():
        raise AudioError(f"{SAMPLES} are not all finite (NaN, infinite, or beyond 32 bits); mend them")
    return found


def _of_torch(samples: Tensor) -> NDArray[Any]:
    samples = samples.detach().cpu()
    try:
        return (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    except (TypeError, RuntimeError) as fault:
        raise AudioError(f"samples of {samples.dtype} cannot be read ({fault}); give plain floats") from None


def _rate(sample_rate: Any) -> int:
    """The rate of samples, in Hz."""
    if sample_rate is None:
        raise AudioError("samples have no rate of their own; give sample_rate, in Hz")
    try:
        number = float(sample_rate)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    rate = int(number) if number.is_integer() else 0
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"sample_rate is {sample_rate!r}; a voice is recorded with {LOWEST_RATE:,} to {HIGHEST_RATE:,} "
            "samples a second, a whole number"
        )
    return rate
