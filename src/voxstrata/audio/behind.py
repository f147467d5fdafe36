"""Where another file begins behind the end of a recording, as `cat a.wav b.wav` leaves it."""

from __future__ import annotations

import re
from typing import BinaryIO

from voxstrata.audio.content import Remark
from voxstrata.audio.kinds import HEAD, by_magic
from voxstrata.audio.mpeg import frame_header

#: Name of a kind -> how its files begin, in eight bytes or more that no sound has by chance, and a part of
#: that by which they are searched. Kinds that may be joined are not among them.
_BEGINNINGS: dict[str, tuple[bytes, re.Pattern[bytes]]] = {
    name: (mark, re.compile(pattern, re.DOTALL))
    for name, mark, pattern in (
        ("FLAC", b"fLaC", rb"fLaC[\x00\x80]\x00\x00\x22"),
        ("WAV", b"WAVE", rb"(?:RIFF|RIFX|RF64|BW64)....WAVE"),
        ("AIFF", b"AIF", rb"FORM....AIF[FC]"),
        ("CAF", b"caff", rb"caff\x00[\x01\x02]\x00\x00desc"),
        ("W64", b"riff\x2e\x91\xcf\x11", rb"riff\x2e\x91\xcf\x11"),
        ("AU", b".snd", rb"\.snd\x00\x00.{6}\x00\x00\x00.\x00"),
        ("SPHERE", b"NIST_1A", rb"NIST_1A\n +\d+\n"),
        ("VOC", b"Creative Voice File", rb"Creative Voice File\x1a"),
        ("MP4", b"ftyp", rb"\x00\x00\x00[\x10-\x80]ftyp"),
        ("TTA", b"TTA1", rb"TTA1[\x01-\x03]\x00.\x00.\x00"),
        ("FLV", b"FLV\x01", rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09"),
        ("AMR", b"#!AMR", rb"#!AMR(?:-WB)?\n"),
        ("ASF", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        ("APE", b"MAC ", rb"MAC [\x80-\xa0]\x0f.\x00.\x00\x00\x00"),
    )
}
#: Bytes that a beginning has at most, and that are searched at once.
_LONGEST, _BLOCK = 64, 1 << 22


def next_file(file: BinaryIO, kind: str, start: int) -> int | None:
    """The place from `start` on where a file of the same kind begins; None where there is none.

    Args:
        file: at any place.
        kind: name of the kind.
        start: from here on.
    """
    if kind not in _BEGINNINGS:
        return None
    mark, beginning = _BEGINNINGS[kind]
    file.seek(start)
    held, place = b"", start
    while block := file.read(_BLOCK):
        held += block
        found = held.find(mark)
        while found >= 0:
            match = beginning.search(held, max(0, found - 16), found + _LONGEST)
            if match is not None:
                return place + match.start()
            found = held.find(mark, found + 1)
        place, held = place + max(0, len(held) - _LONGEST), held[-_LONGEST:]
    return None


def is_file_at(file: BinaryIO, place: int) -> bool:
    """Whether what stands there begins as a recording of any kind does.

    Args:
        file: at any place.
        place: where to look.
    """
    file.seek(place)
    head = file.read(HEAD)
    frame = frame_header(head[:4])
    two = frame is not None and frame_header(head[frame.length : frame.length + 4]) is not None
    return two or head[:3] == b"ID3" or by_magic(head) is not None


def remark_on(behind: int, end: int) -> Remark:
    """Of a recording behind whose end another file stands, which is not read.

    Args:
        behind: where that one begins.
        end: where the whole file ends.
    """
    detail = f"{end - behind:,} bytes behind its end are another recording, which is not read; split the file"
    return Remark("another file", detail)
