"""Frames of MPEG audio (MP3 and its elders): their headers, and what else stands between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

#: kbit/s by the bitrate index of a frame of MPEG-1 layers 1, 2, 3, and of MPEG-2 layers 1 and 2, 3.
_BITRATES = (
    (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = (44_100, 48_000, 32_000)


#: MPEG version, layer, sample rate in Hz, channels.
Form = tuple[int, int, int, int]


@dataclass(frozen=True)
class FrameHeader:
    """The header of one frame.

    Args:
        length: bytes of the frame.
        form: what stays the same in a recording.
        bitrate: index of the bitrate, which may change.
        side: where the side information of layer 3 begins, behind a checksum if there is one.
        side_bytes: of it; 0 of other layers.
        samples: of a channel.
    """

    length: int
    form: Form
    bitrate: int
    side: int
    side_bytes: int
    samples: int


@lru_cache(maxsize=4096)
def frame_header(header: bytes) -> FrameHeader | None:
    """The frame with this header of four bytes; None where it is none.

    ISO/IEC 11172-3, 2.4.1.3, and 13818-3 for the lower rates. Frames of free bitrate are not known.

    >>> frame_header(bytes.fromhex("fffb9064")).length, frame_header(b"RIFF")
    (417, None)
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3 or bitrate in (0, 15):
        return None
    newest, mono = version == 3, header[3] >> 6 == 3
    row = layer - 1 if newest else (3 if layer == 1 else 4)
    bits = _BITRATES[row][bitrate - 1] * 1000
    hertz = _RATES[rate] // (1 if newest else 2 if version == 2 else 4)
    padding = header[2] >> 1 & 1
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (144 if newest or layer == 2 else 72) * bits // hertz + padding
    side_bytes = 0 if layer != 3 else (17 if mono else 32) if newest else (9 if mono else 17)
    side = 4 if header[1] & 1 else 6
    samples = 384 if layer == 1 else 1152 if newest or layer == 2 else 576
    return FrameHeader(length, (version, layer, hertz, 2 - mono), bitrate, side, side_bytes, samples)


def tag_length(content: bytes, place: int) -> int:
    """Bytes of the tag that stands there, of any kind that players know; 0 where there is none."""
    head = content[place : place + 32]
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        footer = 10 if head[5] & 0x10 else 0
        return 10 + footer + sum(b << s for b, s in zip(head[6:10], (21, 14, 7, 0), strict=True))
    if head[:3] == b"TAG":
        return 227 if head[3:4] == b"+" else 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        # A header, whose size is that of what follows, or a footer alone.
        return 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
    if head[:11] == b"LYRICSBEGIN":
        ends = [content.find(mark, place) for mark in (b"LYRICS200", b"LYRICSEND")]
        return min((end for end in ends if end >= 0), default=place - 9) + 9 - place
    return 0


def counted_frames(frame: bytes) -> int | None:
    """How many frames follow, as a frame says that holds this count and no sound (Xing, Info, VBRI).

    0 where it is such a frame without a count, None where it is none.
    """
    about = frame_header(frame[:4])
    if about is None or not about.side_bytes or any(frame[about.side : 4 + about.side_bytes]):
        return None
    for place in (4 + about.side_bytes, 6 + about.side_bytes):
        if frame[place : place + 4] in (b"Xing", b"Info") and len(frame) >= place + 12:
            return int.from_bytes(frame[place + 8 : place + 12], "big") if frame[place + 7] & 1 else 0
    return int.from_bytes(frame[50:54], "big") if frame[36:40] == b"VBRI" else None


def count_frame(header: bytes, frames: int) -> bytes:
    """A frame that says how many follow, and holds no sound.

    Args:
        header: four bytes of one of these, of layer 3.
        frames: how many follow.
    """
    # Of a bitrate at which there is room for it.
    header = bytes((header[0], header[1] | 1, header[2] & 0x0C | 0x80, header[3]))
    about = frame_header(header)
    assert about is not None and about.side_bytes
    body = bytes(about.side_bytes) + b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return header + body + bytes(about.length - 4 - len(body))


def silent_frame(header: bytes) -> bytes:
    """A frame with this header in which nothing sounds: no bits are given to any band."""
    about = frame_header(header)
    assert about is not None
    # Without a checksum.
    return bytes((header[0], header[1] | 1, header[2], header[3])) + bytes(about.length - 4)


def muted(frame: bytes) -> bytes:
    """A frame of which nothing is decoded; of layer 3 later frames may still use its bytes."""
    about = frame_header(frame[:4])
    assert about is not None
    if not about.side_bytes:
        return silent_frame(frame[:4])
    side = slice(about.side, about.side + about.side_bytes)
    return frame[: side.start] + bytes(about.side_bytes) + frame[side.stop :]


def reach(frame: bytes) -> int:
    """How many bytes before it the sound of a frame of layer 3 begins (`main_data_begin`)."""
    about = frame_header(frame[:4])
    assert about is not None
    begin = int.from_bytes(frame[about.side : about.side + 2], "big")
    return begin >> 7 if about.form[0] == 3 else begin >> 8
