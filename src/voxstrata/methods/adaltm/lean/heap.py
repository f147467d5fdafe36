"""The C library's heap, which keeps freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class Heap:
    """Gives freed memory back to the system, once too much of it lies idle for a model, say.

    What passes through a layer leaves holes between the states that are kept, and glibc before 2.38 does not
    even put an aligned tensor into a hole of its own size: after some layers as much lies idle as is used. To
    give it back takes a millisecond; to use it again takes a page fault for every 4 KB, a fifth of a training
    step where it is done around every layer.

    Without it a step at WavLM-Large shape peaks 1.3 times as high (docs/benchmarks.md, `idle-kept`).

    Where the C library is not glibc nothing is done; where it does not tell what is in use (glibc before
    2.33) any idle memory is given back.
    """

    def __init__(self) -> None:
        #: Resident memory that is not on the heap, as it was when nothing on the heap was idle.
        self._elsewhere: int | None = None
        #: The most that was in use at any look.
        self._most = 0

    def give_back(self, allowed: int = 0) -> None:
        """Gives idle memory back if more is resident than the most that was in use and `allowed` bytes.

        Below that, what lies idle serves again: in a backward pass, or in the next step.
        """
        library = _glibc()
        if library is None:
            return
        used = _used(library)
        self._most = max(self._most, used or 0)
        if self._elsewhere is None or _resident() - self._elsewhere > self._most + allowed:
            library.malloc_trim(0)
            used = _used(library)
            self._elsewhere = None if used is None else _resident() - used


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    if hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = _Mallinfo2
    return library


def _used(library: ctypes.CDLL) -> int | None:
    """Bytes of the heap that are in use; None where glibc does not tell."""
    if not hasattr(library, "mallinfo2"):
        return None
    stated = library.mallinfo2()
    return int(stated.uordblks + stated.hblkhd)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
