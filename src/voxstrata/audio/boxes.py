"""Recordings made of boxes, elements or blocks (MP4, Matroska, VOC, ...): whether all end in the file."""

from __future__ import annotations

from typing import BinaryIO

from voxstrata.audio.claim import Claim, breaks_off

#: Bytes of a packet of an MPEG transport stream.
_PACKET = 188
#: Bitrates of AC-3.
_AC3_KBIT = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


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
            return breaks_off(f"{end - place} of {size} bytes of its part {head[4:8].decode('latin-1')!r}")
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
            return breaks_off(f"{end - body} of {size} bytes of one of its parts")
        inside = name in (_SEGMENT, _CLUSTER) or size == ones
        place = body if inside else body + size
    return Claim()


def _width(head: bytes, most: int) -> int:
    """Bytes of a number whose leading zero bits tell how many there are; 0 where it is none."""
    width = 9 - head[0].bit_length() if head and head[0] else 0
    return width if width <= most else 0


def claim_of_voc(file: BinaryIO) -> Claim:
    """Whether the blocks of a Creative Voice file are there to their ends."""
    end = file.seek(0, 2)
    file.seek(20)
    place = int.from_bytes(file.read(2), "little")
    while place + 4 <= end:
        file.seek(place)
        # A type, and a size of three bytes.
        head = file.read(4)
        size = int.from_bytes(head[1:], "little")
        if not head[0]:
            break
        if place + 4 + size > end:
            return breaks_off(f"{end - place - 4} of {size} bytes of one of its blocks")
        place += 4 + size
    return Claim()


def claim_of_avi(file: BinaryIO) -> Claim:
    """Whether an AVI file is as long as its header says."""
    end = file.seek(0, 2)
    file.seek(4)
    size = int.from_bytes(file.read(4), "little")
    # A writer that was stopped leaves 0.
    return breaks_off(f"{end - 8} of {size} bytes") if end - 8 < size - 1 else Claim()


def claim_of_ts(file: BinaryIO) -> Claim:
    """Whether the last packet of an MPEG transport stream is there to its end."""
    return breaks_off("its last packet is not whole") if file.seek(0, 2) % _PACKET else Claim()


def claim_of_flv(file: BinaryIO) -> Claim:
    """Whether the tags of a Flash video are there to their ends, each with its length behind it."""
    end = file.seek(0, 2)
    file.seek(5)
    place = int.from_bytes(file.read(4), "big") + 4
    while place + 11 <= end:
        file.seek(place)
        head = file.read(11)
        if head[0] & 0x1F not in (8, 9, 18):
            break
        place += 11 + int.from_bytes(head[1:4], "big") + 4
    # The length behind the last one may be missing.
    return Claim() if end in (place - 4, place) else breaks_off("its last tag is not whole")


def claim_of_ac3(file: BinaryIO) -> Claim:
    """Whether the last frame of AC-3 or E-AC-3 is there to its end (ETSI TS 102 366, 4.4.1.4 and E.1.2.2)."""
    end, place = file.seek(0, 2), 0
    while place + 6 <= end:
        file.seek(place)
        head = file.read(6)
        code, rate = head[4] & 0x3F, head[4] >> 6
        if head[:2] != b"\x0b\x77" or (head[5] >> 3 <= 10 and (code >= 2 * len(_AC3_KBIT) or rate == 3)):
            return Claim()
        if head[5] >> 3 > 10:
            words = (head[2] & 7) << 8 | head[3]
            place += 2 * (words + 1)
            continue
        kbit = _AC3_KBIT[code >> 1]
        place += 2 * (2 * kbit, kbit * 320 // 147 + (code & 1), 3 * kbit)[rate]
    return Claim() if place == end else breaks_off("its last frame is not whole")


def claim_of_adts(file: BinaryIO) -> Claim:
    """Whether the last frame of an AAC stream is there to its end (ISO/IEC 14496-3, 1.A.2)."""
    end, place = file.seek(0, 2), 0
    while place + 7 <= end:
        file.seek(place)
        head = file.read(7)
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or length < 7:
            return Claim()
        place += length
    return Claim() if place == end else breaks_off("its last frame is not whole")
