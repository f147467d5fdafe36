"""A recording in whatever form it is given, as mono samples at 16 kHz: all are looked at as files are."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxstrata.audio import Remark, Sound, leveled, load_with_remarks, resample, shown
from voxstrata.audio.reading import HIGHEST_RATE, LOWEST_RATE
from voxstrata.errors import AudioError

#: Samples [N] or [channels, N].
Samples = NDArray[Any] | Tensor
#: A path, the bytes of an audio file, an open one, samples, or samples with their rate in Hz.
Recording = str | Path | bytes | BinaryIO | Samples | tuple[Samples, float]

#: What stands in a message for a recording without a name.
SAMPLES, BYTES = "the array", "the bytes"
_SUFFIX = re.compile(r"\.\w{1,8}")
# Full scale and zero of samples that are whole numbers.
_WHOLE = {"int16": (2.0**15, 0.0), "int32": (2.0**31, 0.0), "uint8": (2.0**7, 128.0)}


def heard(
    recording: Recording, sample_rate: float | None = None
) -> tuple[NDArray[np.float32], tuple[Remark, ...], str]:
    """Mono samples at 16 kHz [N], what one should know of them, and a name for the recording.

    Args:
        recording: in any form.
        sample_rate: of samples, in Hz; a file tells its own.

    Raises:
        AudioError: if it is of another form, its rate is missing or not to be taken, or its content is
            refused as a file's would be.
    """
    if isinstance(recording, tuple):
        recording, sample_rate = _with_rate(recording, sample_rate)
    if isinstance(recording, np.ndarray | Tensor):
        sound = Sound(_channels(recording), _rate(sample_rate))
        mono, remarks = sound.mono(SAMPLES)
        return resample(leveled(mono), sound.sample_rate), remarks, SAMPLES
    readable = callable(getattr(recording, "read", None))
    if not readable and not isinstance(recording, str | Path | bytes | bytearray | memoryview):
        raise AudioError(
            f"a recording is of type {type(recording).__name__}; give a path, the bytes of an audio file, an "
            "open file, or samples (numpy or torch, [N] or [channels, N]) with their sample_rate; many "
            "recordings go to Recognizer.predictions"
        )
    if sample_rate is not None:
        raise AudioError(f"sample_rate is {sample_rate}, and a file has its own; leave it out")
    if readable:
        return _of_file(recording)
    if isinstance(recording, str | Path):
        return *load_with_remarks(Path(recording)), str(recording)
    return *_of_bytes(bytes(recording), BYTES), BYTES  # type: ignore[arg-type]


def _with_rate(pair: tuple[Any, ...], sample_rate: float | None) -> tuple[Samples, float]:
    """Samples and rate of a pair, as soundfile and torchaudio give them."""
    if len(pair) != 2 or not isinstance(pair[0], np.ndarray | Tensor):
        held = ", ".join(type(part).__name__ for part in pair)
        raise AudioError(f"a recording is a tuple of ({held}); give (samples, sample_rate)")
    if sample_rate is not None and sample_rate != pair[1]:
        raise AudioError(f"sample_rate is {sample_rate}, and {pair[1]} beside the samples; give it once")
    return pair


def _of_file(file: Any) -> tuple[NDArray[np.float32], tuple[Remark, ...], str]:
    """What an open file holds, from where it stands."""
    told = getattr(file, "name", None)
    name = told if isinstance(told, str) else "the open file"
    try:
        content = file.read()
    except (OSError, ValueError) as fault:
        raise AudioError(f"cannot read {shown(Path(name))}: {fault}; open it again") from None
    if not isinstance(content, bytes):
        raise AudioError(f"{shown(Path(name))} is open as text; open it as bytes ('rb')")
    return *_of_bytes(content, name), name


def _of_bytes(content: bytes, name: str) -> tuple[NDArray[np.float32], tuple[Remark, ...]]:
    """What an audio file of these bytes holds; they are read as any file is."""
    with tempfile.TemporaryDirectory(prefix="voxstrata-") as folder:
        # Its end is a hint at what it holds, where it is one that a file may have.
        suffix = Path(name).suffix
        path = Path(folder) / f"recording{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        try:
            path.write_bytes(content)
            return load_with_remarks(path)
        except OSError as fault:
            raise AudioError(
                f"cannot keep {shown(Path(name))} to read it: {fault.strerror}; free space in {folder}"
            ) from None
        except AudioError as fault:
            raise AudioError(str(fault).replace(str(path), shown(Path(name)))) from None


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
