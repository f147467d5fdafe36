"""Ogg files: streams one after the other (chained), each of pages with a number and a checksum (RFC 3533)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from voxstrata.audio.claim import MOST_JOINED, Claim, breaks_off, damaged, joined, too_many
from voxstrata.audio.content import Remark

#: Larger files are not looked through.
_MOST = 1 << 28
#: So many bytes behind the last page are a tag.
_TAG = 1024
_FIRST_PAGE, _LAST_PAGE = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass
class _Chain:
    """Streams that begin together, of which one is decoded.

    Args:
        start: where they begin in the file.
        pages: that are there.
        lost: that are not, or are broken.
        late: that are missing before the first one with sound, as where a listener joined a broadcast.
        numbers: of each stream, the number of its last page.
        times: of each stream, how many samples there are up to its last page but one, and to its last.
        is_backward: a page ends before the last but one. The last page of all may end before the one
            before it, for what an encoder added is taken off there.
        closed: streams whose last page is there.
    """

    start: int
    pages: int = 0
    lost: int = 0
    late: int = 0
    numbers: dict[int, int] = field(default_factory=dict)
    times: dict[int, tuple[int, int]] = field(default_factory=dict)
    is_backward: bool = False
    closed: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Page:
    start: int
    stop: int
    flags: int
    time: int
    stream: int
    number: int


def claim_of_ogg(file: BinaryIO) -> Claim:
    """Whether all pages are there, and the last one is marked as such; where chained streams begin.

    libsndfile reads the first stream alone, and leaves out what is in a hole.

    Args:
        file: at any place.
    """
    end = file.seek(0, 2)
    if end > _MOST:
        return Claim()
    file.seek(0)
    content = file.read()
    chains, place = _chains(content)
    if not chains:
        return Claim()
    if _is_cut(content[place:]):
        return breaks_off("its last page is not whole")
    rest = end - place if content[place:].strip(b"\0") else 0
    if not chains[-1].closed and rest:
        chains[-1].lost += 1
    for chain in chains:
        # Two pages at least hold no sound. A stretch that is missing ahead of it counts as one.
        lost = chain.lost + bool(chain.late)
        if lost and lost >= chain.pages - 2:
            total = chain.lost + chain.late + chain.pages
            return Claim(f"is damaged: {chain.pages} of {total} pages can be read; copy it again")
        if chain.is_backward:
            return Claim("is damaged: a later page ends before an earlier one; copy it again")
    if len(chains) > MOST_JOINED:
        return too_many(len(chains))
    stops = [chain.start for chain in chains[1:]] + [end]
    parts = tuple((slice(chain.start, stop),) for chain, stop in zip(chains, stops, strict=True))
    return Claim(
        remarks=tuple(_remarks(chains, rest)),
        parts=parts if len(chains) > 1 else (),
        in_order=any(chain.lost for chain in chains),
    )


def _chains(content: bytes) -> tuple[list[_Chain], int]:
    """The chained streams, and where the last whole page ends."""
    chains: list[_Chain] = []
    begun, place = False, 0
    for page in _pages(content):
        first = bool(page.flags & _FIRST_PAGE)
        if not chains or (first and not begun):
            chains.append(_Chain(page.start))
        begun, chain, place = first, chains[-1], page.stop
        if not first and chain.pages and page.stream not in chain.numbers:
            # Of a stream whose first page is lost.
            chain.lost += 1
            continue
        chain.pages += 1
        missing = max(0, page.number - chain.numbers.get(page.stream, page.number - 1) - 1)
        chain.numbers[page.stream] = page.number
        # Of pages on which no packet ends it is -1, and 0 of those without sound.
        earlier, before = chain.times.get(page.stream, (0, 0))
        if before:
            chain.lost += missing
        else:
            chain.late += missing
        chain.is_backward |= 0 <= page.time < earlier
        if page.time > before:
            chain.times[page.stream] = before, page.time
        chain.closed |= {page.stream} if page.flags & _LAST_PAGE else set()
    return chains, place


def _pages(content: bytes) -> Iterator[_Page]:
    """Whole pages whose checksum is right."""
    place = content.find(b"OggS")
    while place >= 0:
        head = content[place : place + 27]
        sizes = content[place + 27 : place + 27 + head[26]] if len(head) == 27 else b""
        stop = place + 27 + len(sizes) + sum(sizes)
        if len(head) == 27 and head[4] == 0 and stop <= len(content):
            stated = int.from_bytes(head[22:26], "little")
            if stated == _checksum(head[:22] + bytes(4) + content[place + 26 : stop]):
                time = int.from_bytes(head[6:14], "little", signed=True)
                stream, number = (int.from_bytes(head[at : at + 4], "little") for at in (14, 18))
                yield _Page(place, stop, head[5], time, stream, number)
                place = content.find(b"OggS", stop)
                continue
        place = content.find(b"OggS", place + 1)


def _checksum(page: bytes) -> int:
    """CRC of 32 bits, highest bit first; zlib's is the same with the bits of each byte turned round."""
    turned = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{turned:032b}"[::-1], 2)


def _is_cut(rest: bytes) -> bool:
    """Whether a page begins in what stands behind the last whole one, and does not end there."""
    place = rest.rfind(b"OggS")
    if place < 0:
        return rest in (b"O", b"Og", b"Ogg")
    head = rest[place : place + 27]
    if len(head) < 27:
        return True
    sizes = rest[place + 27 : place + 27 + head[26]]
    return head[4] == 0 and (len(sizes) < head[26] or place + 27 + len(sizes) + sum(sizes) > len(rest))


def _remarks(chains: list[_Chain], rest: int) -> Iterator[Remark]:
    if len(chains) > 1:
        yield joined(len(chains))
    if late := sum(chain.late for chain in chains):
        yield Remark("header", f"its first {late} pages with sound are missing: it is a part of a recording")
    if lost := sum(chain.lost for chain in chains):
        total = lost + sum(chain.pages for chain in chains)
        yield damaged(f"{lost} of {total} pages are missing or broken; they are left out")
    elif rest > _TAG:
        yield damaged(f"its last {rest:,} bytes hold no pages; they are not read")
    if not all(chain.closed for chain in chains):
        yield Remark(
            "header", "it has no mark at its end: its writer was stopped, or it is a part of a recording"
        )
