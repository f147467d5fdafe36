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
    """Gives freed memory back to the system, once too much of it lies idle.

    What passes through a layer leaves holes between the states that are kept, and glibc before 2.38 does not
    even put an aligned tensor into a hole of its own size: after some layers as much lies idle as is used. To
    give it back takes a millisecond; to use it again takes a page fault for every 4 KB, a fifth of a training
    step where it is done around every layer.

    Where the C library is not glibc nothing is done; where it does not tell what is in use (glibc before
    2.33) any idle memory is given back.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
        self._tells = self._library is not None and hasattr(self._library, "mallinfo2")
        if self._tells:
            self._library.mallinfo2.restype = _Mallinfo2  # type: ignore[union-attr]
        #: Resident memory that is not on the heap, as it was when nothing on the heap was idle.
        self._elsewhere: int | None = None
        #: The most that was in use at any look.
        self._most = 0

    def give_back(self, allowed: int = 0) -> None:
        """Gives idle memory back if more is resident than the most that was in use and `allowed` bytes.

        Below that, what lies idle serves again: in a backward pass, or in the next step.
        """
        if self._library is None:
            return
        if self._tells:
            self._most = max(self._most, self._used())
        if self._elsewhere is None or _resident() - self._elsewhere > self._most + allowed:
            self._library.malloc_trim(0)
            if self._tells:
                self._elsewhere = _resident() - self._used()

    def _used(self) -> int:
        told = self._library.mallinfo2()  # type: ignore[union-attr]
        return int(told.uordblks + told.hblkhd)


@cache
def heap() -> Heap:
    """The heap of this process."""
    return Heap()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
