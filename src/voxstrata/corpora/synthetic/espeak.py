"""espeak-ng through ctypes.

The library is GPL-3 and keeps global state, so it is loaded only in worker processes (`worker.py`), never in
the process of the person who imports voxstrata. Its oscillators go on from one utterance to the next;
unloading and loading it again for each clip (about 1 ms) makes the samples a function of the request alone.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstrata.errors import VoxstrataError

#: espeak-ng's own rate.
ESPEAK_RATE = 22_050
#: Symbol of silence.
SILENCE = "_"
_SYNCHRONOUS, _UTF8, _SSML, _IPA_EVENTS = 2, 1, 0x10, 3
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_END_OF_EVENTS, _PHONEME_EVENT = 0, 7
#: Stress and length; the letters `a` to `z` and their like stay.
_MARKS = str.maketrans("", "", "ˈˌː̩")


class _Event(ctypes.Structure):
    """`espeak_EVENT`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("symbol", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Request:
    """What espeak-ng is asked to say.

    Args:
        voice: e.g. "en-us+f3".
        phrases: spoken one after the other, with `pause_s` of silence between them.
        rate_wpm: words a minute, 80 to 450.
        pitch: dial, 0 to 100.
        range: dial, 0 to 100.
        word_gap: units of 10 ms.
        pause_s: between phrases.
        seed: of espeak's own random numbers.
    """

    voice: str
    phrases: tuple[str, ...]
    rate_wpm: int = 175
    pitch: int = 50
    range: int = 50
    word_gap: int = 0
    pause_s: float = 0.0
    seed: int = 1


@dataclass(frozen=True, eq=False)
class Spoken:
    """What espeak-ng said.

    Args:
        samples: [N] at `ESPEAK_RATE` in [-1, 1].
        phonemes: (first sample, symbol) in order of time: IPA without stress and length, `SILENCE`.
    """

    samples: NDArray[np.float32]
    phonemes: tuple[tuple[int, str], ...]


def require() -> None:
    """Checks that the extra is installed.

    Raises:
        VoxstrataError: if it is not.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise VoxstrataError(
            "synthetic speech needs espeak-ng, which is not installed; run: pip install 'voxstrata[synth]'"
        )


def version() -> str:
    """The version of the library, e.g. "1.52.0"."""
    with _library() as library:
        library.espeak_Info.restype = ctypes.c_char_p
        return str(library.espeak_Info(None).decode())


def speak(request: Request) -> Spoken:
    """Speaks a request.

    Raises:
        VoxstrataError: if espeak-ng refuses the voice or the text.
    """
    pieces: list[bytes] = []
    phonemes: list[tuple[int, str]] = []

    def keep(samples: Any, count: int, events: Any) -> int:
        for event in takewhile(lambda event: event.type != _END_OF_EVENTS, events):
            if event.type == _PHONEME_EVENT:
                symbol = event.symbol.decode(errors="ignore").translate(_MARKS)
                phonemes.append((event.sample, SILENCE if symbol.startswith(SILENCE) else symbol or SILENCE))
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(keep)
    pause = f'<break time="{round(1000 * request.pause_s)}ms"/>'
    text = (f" {pause} ".join(request.phrases)).encode()
    with _library() as library:
        library.espeak_SetSynthCallback(callback)
        _check(library.espeak_SetVoiceByName(request.voice.encode()), f"voice {request.voice!r}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(request.seed))
        dials = {
            _RATE: request.rate_wpm,
            _PITCH: request.pitch,
            _RANGE: request.range,
            _WORD_GAP: request.word_gap,
        }
        for dial, value in dials.items():
            _check(library.espeak_SetParameter(dial, value, 0), f"parameter {dial} = {value}")
        size = ctypes.c_size_t(len(text) + 1)
        _check(library.espeak_Synth(text, size, 0, 0, 0, _UTF8 | _SSML, None, None), f"text {text!r}")
        _check(library.espeak_Synchronize(), "synchronising")
    samples = np.frombuffer(b"".join(pieces), np.int16).astype(np.float32) / np.float32(32768)
    return Spoken(samples, tuple(phonemes))


@contextmanager
def _library() -> Iterator[ctypes.CDLL]:
    """The library with fresh state, unloaded at the end."""
    import _ctypes

    require()
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        voices = espeakng_loader.get_data_path().encode()
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, voices, _IPA_EVENTS)
        if rate != ESPEAK_RATE:
            raise VoxstrataError(
                f"espeak-ng did not start (answered {rate}, not {ESPEAK_RATE}); reinstall: "
                "pip install --force-reinstall espeakng-loader"
            )
        yield library
    finally:
        library.espeak_Terminate()
        unload = getattr(_ctypes, "FreeLibrary" if sys.platform == "win32" else "dlclose")
        unload(library._handle)


def _check(status: int, what: str) -> None:
    if status != 0:
        raise VoxstrataError(
            f"espeak-ng refused {what} (status {status}); its voices may be another version's"
        )
