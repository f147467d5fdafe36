"""Whether a compressed recording is whole: what its pages, frames, boxes or elements claim."""

from __future__ import annotations

from typing import BinaryIO

from voxstrata.audio.chunks import Claim
from voxstrata.audio.kinds import mpeg_frame

#: A page of Ogg has a head of 27 bytes, up to 255 sizes, and 255 bytes for each of them.
_LONGEST_PAGE = 27 + 255 + 255 * 255
_LAST_PAGE = 4
#: Larger MP3 files are not walked through.
_MOST_MP3 = 1 << 28

_SEGMENT, _CLUSTER, _EBML = 0x18538067, 0x1F43B675, 0x1A45DFA3


def claim_of_ogg(file: BinaryIO) -> Claim:
    """Whether the last page is there to its end, and marked as the last (RFC 3533, section 6)."""
    end = file.seek(0, 2)
    start = max(0, end - 2 * _LONGEST_PAGE)
    file.seek(start)
    tail = file.read()
    place, page = tail.rfind(b"OggS"), b""
    while place >= 0 and (len(page := tail[place:]) < 27 or page[4] != 0):
        if place + 27 > len(tail):
            return Claim("its last page breaks off")
        place = tail.rfind(b"OggS", 0, place)
    if place < 0:
        return Claim()
    sizes = page[27 : 27 + page[26]]
    if len(sizes) < page[26] or 27 + page[26] + sum(sizes) > len(page):
        return Claim("its last page breaks off")
    if not page[5] & _LAST_PAGE:
        return Claim(remark="has no mark at its end: its writer was stopped, or it is a part of a recording")
    return Claim()


def claim_of_mp3(file: BinaryIO) -> Claim:
    """Whether all frames are there that the first one counts (Xing, VBRI), and the last one to its end."""
    end = file.seek(0, 2)
    if end > _MOST_MP3:
        return Claim()
    file.seek(0)
    content = file.read()
    place = 0
    while content[place : place + 3] == b"ID3" and place + 10 <= len(content):
        sizes = content[place + 6 : place + 10]
        place += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(sizes, (21, 14, 7, 0), strict=True))
    first = place
    length = mpeg_frame(content[place : place + 4])
    declared = None if length is None else _counted_frames(content[place : place + min(length, 400)])
    frames, bitrates = 0, set()
    while (length := mpeg_frame(content[place : place + 4])) is not None and place + length <= len(content):
        bitrates.add(content[place + 2] >> 4)
        place, frames = place + length, frames + 1
    # The frame that counts the others is none of them.
    held = frames - (declared is not None)
    tagged = content[place : place + 3] in (b"TAG", b"APE", b"LYR") or not any(content[place:])
    if length is None and not tagged and len(content) - place >= 4:
        # Something else stands there: what is behind it is not counted.
        return Claim()
    if declared is not None and held < declared - 1:
        return Claim(f"{max(0, held)} of {declared} frames")
    if declared is None and place > first and (length is not None or 0 < len(content) - place < 4):
        return Claim("its last frame breaks off")
    return Claim(uncounted=declared is None and len(bitrates) > 1)


def _counted_frames(frame: bytes) -> int | None:
    """How many frames follow, as the first one tells where it holds a count and no sound."""
    for name, flags_at, count_at in ((b"Xing", 4, 8), (b"Info", 4, 8), (b"VBRI", None, 14)):
        place = frame.find(name, 4, 200)
        if place < 0:
            continue
        if flags_at is not None and not frame[place + flags_at + 3 : place + flags_at + 4] > b"\0":
            return None
        if flags_at is not None and not frame[place + flags_at + 3] & 1:
            return None
        count = int.from_bytes(frame[place + count_at : place + count_at + 4], "big")
        return count or None
    return None


def claim_of_mp4(file: BinaryIO) -> Claim:
    """Whether the outermost boxes are there to their ends (ISO/IEC 14496-12, 4.2)."""
    end, place = file.seek(0, 2), 0
    while place + 8 <= end:
        file.seek(place)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        # To the end, or no box.
        if size < 8 or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in head[4:8]):
            break
        if place + size > end:
            return Claim(f"{end - place} of {size} bytes of its part {head[4:8].decode('latin-1')!r}")
        place += size
    return Claim()


def claim_of_matroska(file: BinaryIO) -> Claim:
    """Whether the elements of segment and clusters are there to their ends (RFC 8794, sections 5 and 6)."""
    end, place = file.seek(0, 2), 0
    while place < end:
        file.seek(place)
        head = file.read(12)
        name_bytes = _width(head, 4)
        size_bytes = _width(head[name_bytes:], 8) if name_bytes else 0
        if not name_bytes or not size_bytes or len(head) < name_bytes + size_bytes:
            break
        name = int.from_bytes(head[:name_bytes], "big")
        ones = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(head[name_bytes : name_bytes + size_bytes], "big") & ones
        body = place + name_bytes + size_bytes
        if size != ones and body + size > end:
            return Claim(f"{end - body} of {size} bytes of one of its parts")
        inside = name in (_SEGMENT, _CLUSTER) or size == ones
        place = body if inside else body + size
    return Claim()


def _width(head: bytes, most: int) -> int:
    """Bytes of a number whose leading zero bits tell how many there are; 0 where it is none."""
    width = 9 - head[0].bit_length() if head and head[0] else 0
    return width if width <= most else 0
