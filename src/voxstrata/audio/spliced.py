"""A file as it is to be read: pieces of the one on disk, and bytes that stand in the place of others."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import BinaryIO

#: Bytes, or from where to where of the file they are taken.
Piece = bytes | slice
Pieces = tuple[Piece, ...]


def patched(end: int, patches: Mapping[int, bytes]) -> Pieces:
    """A whole file of which some bytes are replaced.

    >>> patched(10, {4: b"ab"})
    (slice(0, 4, None), b'ab', slice(6, 10, None))

    Args:
        end: bytes of the file.
        patches: place -> bytes that stand there instead.
    """
    pieces: list[Piece] = []
    place = 0
    for start, patch in sorted(patches.items()):
        pieces += [slice(place, start), patch]
        place = start + len(patch)
    return (*pieces, slice(place, end))


class Spliced(io.RawIOBase):
    """Pieces of a file, read one after the other.

    Args:
        file: that can be sought in; nobody else reads it meanwhile.
        pieces: in their order.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = [piece for piece in pieces if _length(piece)]
        self._starts = [0, *accumulate(map(_length, self._pieces))]
        self._place = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place in the pieces as a whole."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new place; behind the end there is nothing to read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        if start + offset < 0:
            raise ValueError(f"place {start + offset}")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Bytes read, of one piece at a time; 0 at the end."""
        number = bisect_right(self._starts, self._place) - 1
        if number >= len(self._pieces):
            return 0
        piece, start = self._pieces[number], self._place - self._starts[number]
        count = min(len(buffer), _length(piece) - start)
        if isinstance(piece, slice):
            self._file.seek(piece.start + start)
            content = self._file.read(count)
        else:
            content = piece[start : start + count]
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _length(piece: Piece) -> int:
    return max(0, piece.stop - piece.start) if isinstance(piece, slice) else len(piece)
