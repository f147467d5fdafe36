"""Keeps the decoders' own lines from standard error: libsndfile cannot ask libmpg123 to be silent.

What C libraries print goes to the variable `stderr` of the C library, which points elsewhere meanwhile.
Python's own `sys.stderr` and file descriptor 2 stay as they are, for other threads and for progress bars.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache


class _Switch:
    """How many decode at the moment, and where `stderr` pointed before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.before: int | None = None


_SWITCH = _Switch()


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that C libraries print on standard error is seen within; threads may do so side by side.

    Where the C library is neither glibc nor Apple's, nothing is changed.
    """
    places = _places()
    if places is None:
        yield
        return
    stderr, nowhere = places
    with _SWITCH.lock:
        _SWITCH.users += 1
        if _SWITCH.users == 1:
            _SWITCH.before, stderr.value = stderr.value, nowhere
    try:
        yield
    finally:
        with _SWITCH.lock:
            _SWITCH.users -= 1
            if not _SWITCH.users:
                stderr.value = _SWITCH.before


@lru_cache(maxsize=1)
def _places() -> tuple[ctypes.c_void_p, int] | None:
    """The variable `stderr`, and a stream that leads nowhere; None where they are not to be had."""
    if sys.platform == "darwin":
        name = "__stderrp"
    elif "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}) and os.confstr("CS_GNU_LIBC_VERSION"):
        name = "stderr"
    else:
        return None
    try:
        library = ctypes.CDLL(None)
        variable = ctypes.c_void_p.in_dll(library, name)
        library.fopen.restype = ctypes.c_void_p
        nowhere = library.fopen(os.fsencode(os.devnull), b"w")
    except (OSError, ValueError, AttributeError):
        return None
    return (variable, nowhere) if nowhere else None
