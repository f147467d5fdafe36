"""What the header of an uncompressed recording claims, held against the bytes that are there."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from voxstrata.audio.behind import is_file_at, next_file, remark_on
from voxstrata.audio.claim import Claim, breaks_off
from voxstrata.audio.content import Remark
from voxstrata.audio.spliced import Spliced, patched

# Codecs whose samples have a fixed number of bytes: PCM, float, A-law, mu-law, and those named further on.
_UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)
# Rates that recorders have.
_RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)

Order = Literal["big", "little"]

# Sizes from here on are written into a header of 32 bits by those who stream and do not know the length.
_SIZE_UNKNOWN = 0x7FFFF000
#: Bytes behind the declared sound from which on they are sound themselves, in seconds of it.
_MUCH_S = 0.1
# Chunks that may stand behind the sound even where they break off themselves.
_TAGS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"JUNK", b"iXML", b"axml", b"PEAK", b"smpl", b"_PMX")


@dataclass(frozen=True)
class _Layout:
    """How a file is made of chunks.

    Args:
        first: where the first chunk stands.
        name: bytes of a chunk's name; four of them tell it.
        size: bytes of its size.
        order: of these bytes.
        whole: the size counts the chunk's head too.
        align: chunks begin at multiples of this.
        sound: the name of the chunk with the sound.
        ahead: bytes in it before the sound.
    """

    first: int
    name: int
    size: int
    order: Order
    whole: bool
    align: int
    sound: bytes
    ahead: int = 0

    @property
    def head(self) -> int:
        return self.name + self.size


_LAYOUTS = {
    "RIFF": _Layout(12, 4, 4, "little", False, 2, b"data"),
    "RIFX": _Layout(12, 4, 4, "big", False, 2, b"data"),
    "AIFF": _Layout(12, 4, 4, "big", False, 2, b"SSND", ahead=8),
    "W64": _Layout(40, 16, 8, "little", True, 8, b"data"),
    "CAF": _Layout(8, 4, 8, "big", False, 1, b"data", ahead=4),
}


def claim_of_chunks(file: BinaryIO, kind: str) -> Claim:
    """The claim of a WAV, AIFF, W64 or CAF file.

    libsndfile takes what there is: a copy that was cut would be a shorter clip, and one whose writer died
    before it wrote the length an empty one.

    Args:
        file: at any place.
        kind: "WAV", "AIFF", "W64" or "CAF".
    """
    end = file.seek(0, 2)
    file.seek(0)
    form = file.read(4)
    layout = _LAYOUTS["RIFX" if form == b"RIFX" else "RIFF" if kind == "WAV" else kind]
    place, bytes_per_s, long_size = layout.first, 0, None
    form_remarks: tuple[Remark, ...] = ()
    while place + layout.head <= end:
        file.seek(place)
        chunk = file.read(layout.head + 24)
        name, size = chunk[:4], int.from_bytes(chunk[layout.name : layout.head], layout.order)
        body = chunk[layout.head :]
        if layout.whole:
            size -= layout.head
        if name == b"ds64":
            long_size = int.from_bytes(body[8:16], "little"), place + layout.head + 8
        elif name == b"fmt ":
            bytes_per_s = int.from_bytes(body[8:12], layout.order)
            form_remarks, fault = _of_form(body, layout.order)
            if fault:
                return Claim(fault)
        elif name == layout.sound:
            where, width = place + layout.name, layout.size
            if form in (b"RF64", b"BW64") and size == 0xFFFFFFFF and long_size is not None:
                (size, where), width = long_size, 8
            start = place + layout.head
            unknown = (width == 4 and size >= _SIZE_UNKNOWN) or size >= 2**62
            behind = next_file(file, kind, start + (16 if unknown else max(0, size)))
            if behind is not None:
                return _without(file, kind, behind, end)
            if unknown:
                return Claim(remarks=form_remarks)
            claim = _of_sound(file, kind, layout, (where, width), start, size, end, bytes_per_s)
            return replace(claim, remarks=form_remarks + claim.remarks)
        if size < 0:
            break
        place += layout.head + size + -(layout.head + size) % layout.align
    return Claim()


def _of_form(body: bytes, order: Order) -> tuple[tuple[Remark, ...], str]:
    """What a WAV header says twice, held against itself: a remark on the rate, or the fault.

    Args:
        body: of the chunk: codec, channels, rate, bytes a second, bytes of a sample of all channels, bits.
        order: of these numbers.
    """
    codec, channels, _, _, _, _, block, bits = (
        int.from_bytes(body[at : at + 2], order) for at in range(0, 16, 2)
    )
    rate, bytes_per_s = (int.from_bytes(body[at : at + 4], order) for at in (4, 8))
    if codec not in _UNCOMPRESSED or not channels or not block or not bytes_per_s:
        return (), ""
    # Writers of A-law and mu-law give the bits that these become.
    agree = block % channels == 0 and (codec in (6, 7) or 8 * (block // channels) >= bits)
    if rate * block == bytes_per_s and not agree:
        what = f"{channels} channels of {bits} bits in {block} bytes a sample"
        return (), f"contradicts itself: {what}; mend its header, or leave it out"
    other = bytes_per_s // block
    if not agree or bytes_per_s % block or other not in _RATES or other == rate:
        return (), ""
    detail = f"it says {rate} samples a second, and as many bytes a second as of {other}"
    return (Remark("header", detail),), ""


def _without(file: BinaryIO, kind: str, behind: int, end: int) -> Claim:
    """The claim of what stands before another file."""
    first = claim_of_chunks(io.BufferedReader(Spliced(file, (slice(0, behind),))), kind)
    return replace(
        first,
        remarks=(*first.remarks, remark_on(behind, end)),
        parts=first.parts or ((slice(0, behind),),),
    )


def _of_sound(
    file: BinaryIO,
    kind: str,
    layout: _Layout,
    stated: tuple[int, int],
    start: int,
    size: int,
    end: int,
    bytes_per_s: int,
) -> Claim:
    """The claim of a chunk with sound.

    Args:
        file: at any place.
        kind: of the file.
        layout: of the file.
        stated: where the size stands, and in how many bytes.
        start: where the chunk's content begins.
        size: of the content, as the header has it; what stands ahead of the sound may not be counted in it.
        end: of the file.
        bytes_per_s: of sound; 0 where it is not known.
    """
    held = end - start
    # One byte less is a padding that was counted, but not written.
    if held < size - 1:
        return breaks_off(f"{held - layout.ahead} of {size - layout.ahead} bytes of sound")
    beyond = held - size
    sounding = size - layout.ahead
    if beyond <= 0 or (sounding > 0 and beyond < max(256, _MUCH_S * bytes_per_s)):
        return Claim()
    if second := _next_chunk(file, layout, start + size, layout.sound):
        detail = f"it holds a second stretch of sound, of {second:,} bytes, which is not read"
        return Claim(remarks=(Remark("header", detail),))
    if _are_chunks(file, layout, start + size, end) or not _any_byte(file, start + size, end):
        return Claim()
    # A file that was cut, with another one behind it, which begins within the sound that the first declares.
    behind = start + size if is_file_at(file, start + size) else next_file(file, kind, start + 16)
    if behind is not None:
        return _without(file, kind, behind, end)
    where, width = stated
    new = held + (layout.head if layout.whole else 0)
    if width == 4 and new >= 2**32:
        new = 0xFFFFFFFF
    patches = {where: new.to_bytes(width, layout.order)}
    if width == 4:
        patches[4] = min(end - 8, 0xFFFFFFFF).to_bytes(4, layout.order)
    return _all_of_it(end, max(0, sounding), held - layout.ahead, patches)


def _all_of_it(end: int, declared: int, held: int, patches: Mapping[int, bytes]) -> Claim:
    """The claim of a file whose header is made to tell of all the sound that is there."""
    remark = f"it declares {declared} of {held} bytes of sound; all of them are read"
    return Claim(remarks=(Remark("header", remark),), parts=(patched(end, patches),))


def _next_chunk(file: BinaryIO, layout: _Layout, start: int, name: bytes) -> int:
    """Bytes of the chunk that begins here, if it has this name; else 0."""
    file.seek(start + -start % layout.align)
    chunk = file.read(layout.head)
    size = int.from_bytes(chunk[layout.name :], layout.order) - (layout.head if layout.whole else 0)
    return max(0, size) if chunk[:4] == name else 0


def _are_chunks(file: BinaryIO, layout: _Layout, start: int, end: int) -> bool:
    """Whether what stands from here on is further chunks: names in letters, and sizes that end at the end."""
    for place in {start, start + -start % layout.align, start + 1}:
        while place + layout.head <= end:
            file.seek(place)
            chunk = file.read(layout.head)
            name = chunk[:4]
            size = int.from_bytes(chunk[layout.name :], layout.order) - (layout.head if layout.whole else 0)
            if name in _TAGS:
                return True
            if size < 0 or not all(0x20 <= byte < 0x7F for byte in name):
                break
            place += layout.head + size + -(layout.head + size) % layout.align
        else:
            if place <= end + layout.align and place > start + layout.align:
                return True
    return False


def _any_byte(file: BinaryIO, start: int, end: int) -> bool:
    """Whether anything but zeros stands there: room that was taken beforehand is no sound."""
    file.seek(start)
    while (left := end - file.tell()) > 0:
        if any(file.read(min(left, 1 << 20))):
            return True
    return False


def claim_of_au(file: BinaryIO) -> Claim:
    """The claim of a Sun audio file: offset and size of the sound stand in its header."""
    end = file.seek(0, 2)
    file.seek(4)
    start, size = int.from_bytes(file.read(4), "big"), int.from_bytes(file.read(4), "big")
    held = max(0, end - start)
    if size == 0xFFFFFFFF or held == size:
        return Claim()
    if held < size:
        return breaks_off(f"{held} of {size} bytes of sound")
    if size and held - size < 256:
        return Claim()
    if is_file_at(file, start + size):
        alone = (slice(0, start + size),)
        return Claim(remarks=(remark_on(start + size, end),), parts=(alone,))
    return _all_of_it(end, size, held, {8: min(held, 0xFFFFFFFF).to_bytes(4, "big")})


def claim_of_sphere(file: BinaryIO) -> Claim:
    """The claim of a NIST SPHERE file: lines of `name -type value` in a header of a stated size."""
    end = file.seek(0, 2)
    file.seek(0)
    lines = file.read(1024).decode("latin-1").split("\n")
    fields = {line.split()[0]: line.split()[2] for line in lines if len(line.split()) == 3}
    try:
        start = int(lines[1])
        size = (
            int(fields["sample_count"]) * int(fields.get("channel_count", 1)) * int(fields["sample_n_bytes"])
        )
    except (ValueError, KeyError, IndexError):
        return Claim()
    if "embedded" in fields.get("sample_coding", "") or end - start >= size - 1:
        return Claim()
    return breaks_off(f"{max(0, end - start)} of {size} bytes of sound")
