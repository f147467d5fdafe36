"""FLAC files: how many samples there are, by the number of the last frame (RFC 9639)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from voxstrata.audio.claim import Claim, damaged
from voxstrata.audio.content import Remark
from voxstrata.audio.spliced import patched

#: So many bytes of the end are searched for the last frames where the header does not tell how long they are.
_TAIL = 1 << 17
_BLOCKS = {
    1: 192,
    **{code: 144 << code for code in range(2, 6)},
    **{code: 1 << code for code in range(8, 16)},
}
_SYNC = re.compile(rb"\xff[\xf8\xf9]")


@dataclass(frozen=True)
class _Frame:
    """Where a frame begins in its stream, in samples or in frames, and its samples."""

    number: int
    samples: int
    in_samples: bool


def claim_of_flac(file: BinaryIO) -> Claim:
    """Whether the header counts all samples: libsndfile reads so many, and no more.

    Args:
        file: at any place.
    """
    end = file.seek(0, 2)
    file.seek(0)
    head = file.read(1 << 16)
    place = head.find(b"fLaC")
    about = head[place + 8 : place + 42]
    if place < 0 or len(about) < 34:
        return Claim()
    block, longest = int.from_bytes(about[:2], "big"), int.from_bytes(about[7:10], "big")
    declared = int.from_bytes(about[13:18], "big") & (1 << 36) - 1
    start = max(0, end - (3 * longest or _TAIL))
    file.seek(start)
    tail = file.read()
    held, any_frame = _held(tail, block)
    if not any_frame and start > place and tail.strip(b"\0"):
        detail = f"its last {len(tail):,} bytes hold no frames; they are not read"
        return Claim(remarks=(damaged(detail),))
    if held <= declared or held >= 1 << 36:
        return Claim()
    remark = f"it declares {declared} of {held} samples; all of them are read"
    count = (about[13] & 0xF0) << 32 | held
    patches = {place + 8 + 13: count.to_bytes(5, "big")}
    return Claim(remarks=(Remark("header", remark),) if declared else (), parts=(patched(end, patches),))


def _held(tail: bytes, block: int) -> tuple[int, bool]:
    """Samples up to the end of the last frame, 0 where it cannot be known, and whether there is any frame.

    Args:
        tail: the end of the file.
        block: samples of a frame but the last one, where all have the same number.
    """
    ends: set[tuple[bool, int]] = set()
    held = 0
    for sync in _SYNC.finditer(tail):
        frame = _frame(tail[sync.start() : sync.start() + 16].ljust(16, b"\0"))
        if frame is None:
            continue
        # What looks like a frame by chance does not follow another one.
        if (frame.in_samples, frame.number) in ends or not frame.number:
            held = (frame.number if frame.in_samples else frame.number * block) + frame.samples
        ends.add((frame.in_samples, frame.number + (frame.samples if frame.in_samples else 1)))
    return held, bool(ends)


def _frame(head: bytes) -> _Frame | None:
    """The frame with this header (RFC 9639, 9.1); None where it is none, or its checksum is wrong."""
    block, rate = head[2] >> 4, head[2] & 15
    width = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()
    if not block or rate == 15 or head[3] & 1 or head[3] >> 4 > 10 or width > 7:
        return None
    if (width == 1 and head[4] >= 0x80) or any(byte >> 6 != 2 for byte in head[5 : 4 + width]):
        return None
    number = head[4] & (0x7F if width == 1 else (1 << 7 - width) - 1)
    for byte in head[5 : 4 + width]:
        number = number << 6 | byte & 0x3F
    stop = 4 + width
    samples = _BLOCKS.get(block, 0)
    if block in (6, 7):
        samples = int.from_bytes(head[stop : stop + block - 5], "big") + 1
        stop += block - 5
    stop += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if _checksum(head[:stop]) != head[stop]:
        return None
    return _Frame(number, samples, bool(head[1] & 1))


def _checksum(head: bytes) -> int:
    """CRC of 8 bits, polynomial x^8 + x^2 + x + 1."""
    crc = 0
    for byte in head:
        crc = _remainders()[crc ^ byte]
    return crc


@lru_cache(maxsize=1)
def _remainders() -> bytes:
    found = []
    for crc in range(256):
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
        found.append(crc)
    return bytes(found)
