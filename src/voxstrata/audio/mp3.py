"""MP3 files, looked through from frame to frame: one recording or several, whole or with holes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO

from voxstrata.audio.claim import MOST_JOINED, Claim, breaks_off, damaged, joined, too_many
from voxstrata.audio.content import Remark
from voxstrata.audio.mpeg import (
    Form,
    FrameHeader,
    count_frame,
    counted_frames,
    frame_header,
    muted,
    reach,
    silent_frame,
    tag_length,
)
from voxstrata.audio.spliced import Piece, Pieces

#: Larger files are not looked through.
_MOST = 1 << 28
#: The sound of a frame begins so many bytes before it at most.
_REACH = 511
#: So many frames more than are counted are none of another recording.
_UNCOUNTED = 2
#: So many places that look like frames and are none end the search for the next one.
_TRIED = 200_000
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]")


@dataclass
class _Recording:
    """Frames of one recording.

    Args:
        form: of each frame.
        head: where the frame stands that counts the others; None without one.
        declared: how many there are, by this count; 0 without one.
        frames: place and length of each.
        holes: number of the frame behind a hole -> bytes in the hole.
        bitrates: indices of those that occur.
    """

    form: Form
    head: slice | None = None
    declared: int = 0
    frames: list[tuple[int, int]] = field(default_factory=list)
    holes: dict[int, int] = field(default_factory=dict)
    bitrates: set[int] = field(default_factory=set)

    @property
    def is_guessed(self) -> bool:
        """Whether libsndfile would guess its length from one frame, and be wrong."""
        return self.form[1] == 3 and not self.declared and len(self.bitrates) > 1

    def fills(self) -> dict[int, int]:
        """Number of the frame behind a hole -> frames that are missing there."""
        mean = sum(length for _, length in self.frames) / max(1, len(self.frames))
        fills = {number: round(size / mean) if mean else 0 for number, size in self.holes.items()}
        if self.declared and fills:
            largest = max(fills, key=fills.__getitem__)
            missing = self.declared - len(self.frames) - sum(fills.values())
            fills[largest] = max(0, fills[largest] + missing)
        return fills


def claim_of_mp3(file: BinaryIO) -> Claim:
    """Whether all frames are there that the first one counts, and the last one to its end; what is joined.

    libsndfile reads as far as the first count goes, guesses where there is none, and gives up at a hole.

    Args:
        file: at any place.
    """
    if file.seek(0, 2) > _MOST:
        return Claim()
    file.seek(0)
    content = file.read()
    walk = _Walk(content)
    for one in walk.recordings:
        held, total = len(one.frames), len(one.frames) + sum(one.fills().values())
        if held < one.declared - 1 and not one.holes:
            return breaks_off(f"{held} of {one.declared} frames")
        if held < total / 2:
            return Claim(f"is damaged: {held} of {total} frames can be read; copy it again")
    found = [one for one in walk.recordings if one.frames]
    if not found:
        return breaks_off("its first frame is not whole") if walk.cut else Claim()
    if walk.cut and (not found[-1].declared or found[-1].holes):
        return breaks_off("its last frame is not whole")
    if len(found) > MOST_JOINED:
        return too_many(len(found))
    remarks = _remarks_on_ends(content, walk, found)
    if len(found) == 1 and not found[0].holes and not walk.led_in and not found[0].is_guessed:
        return Claim(remarks=remarks)
    repaired = [_repaired(content, one) for one in found]
    remarks = (*(remark for _, some in repaired for remark in some), *remarks)
    remarks = ((joined(len(found)),) if len(found) > 1 else ()) + remarks
    return Claim(remarks=remarks, parts=tuple(pieces for pieces, _ in repaired))


class _Walk:
    """The recordings in a file, found from frame to frame.

    Args:
        content: of the file.

    Attributes:
        recordings: in their order; of one that was cut there may be a count alone.
        place: where the last frame or tag ends.
        cut: the last frame is not whole.
        led_in: bytes before the first frame that are no tag.
    """

    def __init__(self, content: bytes) -> None:
        self.recordings: list[_Recording] = []
        self.place = self._hole = self.led_in = 0
        self.cut = False
        self._content = content
        while self.place < len(content):
            if tag := tag_length(content, self.place):
                self.place += tag
            elif (header := self._frame_at(self.place)) is not None:
                self._note(header)
            elif not self._skip():
                break
        self._join_uncounted()

    @property
    def _form(self) -> Form | None:
        return self.recordings[-1].form if self.recordings else None

    def _frame_at(self, place: int) -> FrameHeader | None:
        """A whole frame of the same form, or of another one that more of its form follow."""
        header = frame_header(self._content[place : place + 4])
        if header is None or place + header.length > len(self._content):
            return None
        # What looks like the header of another form may be anything.
        known = header.form == self._form
        return header if known or self._is_followed(place, header, 2 if self.recordings else 1) else None

    def _is_followed(self, place: int, header: FrameHeader, count: int) -> bool:
        """Whether so many frames of the same form follow, or the end does."""
        following: FrameHeader | None = header
        for _ in range(count):
            assert following is not None
            place += following.length
            if place >= len(self._content) or tag_length(self._content, place):
                return True
            following = frame_header(self._content[place : place + 4])
            if following is None or following.form != header.form:
                return False
        return True

    def _note(self, header: FrameHeader) -> None:
        stop = self.place + header.length
        if self._hole and self.recordings:
            last = self.recordings[-1]
            last.holes[len(last.frames)] = last.holes.get(len(last.frames), 0) + self._hole
        self._hole = 0
        count = counted_frames(self._content[self.place : min(stop, self.place + 64)])
        current = self.recordings[-1] if self.recordings else None
        if count is not None:
            self.recordings.append(_Recording(header.form, slice(self.place, stop), count))
        else:
            is_full = current is not None and 0 < current.declared <= len(current.frames)
            if current is not None and current.head is not None and not current.frames:
                # The frame that counts may be of another form.
                current.form = header.form
            elif current is None or current.form != header.form or is_full:
                self.recordings.append(_Recording(header.form))
            self.recordings[-1].frames.append((self.place, header.length))
            self.recordings[-1].bitrates.add(header.bitrate)
        self.place = stop

    def _skip(self) -> bool:
        """Goes on at the next frame that another one follows; False where there is none."""
        frames = self.recordings[-1].frames if self.recordings else []
        # A frame that was cut ends where the next one begins.
        last = frames[-1][0] if frames and sum(frames[-1]) == self.place else self.place
        for sync in islice(_SYNC.finditer(self._content, last + 1), _TRIED):
            found = sync.start()
            header = self._frame_at(found)
            if header is not None and self._is_followed(found, header, 1):
                if found < self.place:
                    frames.pop()
                    self.place = last
                if self.recordings:
                    self._hole += found - self.place
                else:
                    self.led_in += found - self.place
                self.place = found
                return True
        rest = self._content[self.place :]
        header = frame_header(rest[:4])
        begun = header is not None and self._form in (None, header.form)
        self.cut = begun or (len(rest) < 4 and rest[:1] == b"\xff")
        return False

    def _join_uncounted(self) -> None:
        """A frame or two behind those that are counted belong to them."""
        for number in range(len(self.recordings) - 1, 0, -1):
            before, one = self.recordings[number - 1], self.recordings[number]
            if one.head is None and before.form == one.form and len(one.frames) <= _UNCOUNTED:
                before.frames += one.frames
                del self.recordings[number]


def _repaired(content: bytes, one: _Recording) -> tuple[Pieces, tuple[Remark, ...]]:
    """A recording with a count of its frames, and with silence in the place of those that are missing."""
    fills = one.fills()
    silenced = _silenced(content, one, fills)
    first = content[one.frames[0][0] : one.frames[0][0] + 4]
    total = len(one.frames) + sum(fills.values())
    pieces: list[Piece] = []
    if one.declared and one.head is not None:
        pieces.append(one.head)
    elif one.form[1] == 3:
        pieces.append(count_frame(first, total))
    for number, (place, length) in enumerate((*one.frames, (len(content), 0))):
        pieces += [silent_frame(first)] * fills.get(number, 0)
        last = pieces[-1] if pieces else b""
        if number in silenced:
            pieces.append(muted(content[place : place + length]))
        elif isinstance(last, slice) and last.stop == place:
            pieces[-1] = slice(last.start, place + length)
        else:
            pieces.append(slice(place, place + length))
    lost = sum(fills.values()) + len(silenced)
    if not lost:
        between = sum(one.holes.values())
        detail = f"{between:,} bytes between its frames are none of them; they are left out"
        return tuple(pieces), (damaged(detail),) if between else ()
    header = frame_header(first)
    assert header is not None
    start_s = min(number for number in fills if fills[number]) * header.samples / one.form[2]
    detail = f"{lost} of {total} frames are missing or broken, the first at {start_s:.1f} s; they are silent"
    return tuple(pieces), (damaged(detail),)


def _silenced(content: bytes, one: _Recording, fills: dict[int, int]) -> set[int]:
    """Numbers of the frames beside holes that are broken, or of which a part lies in the hole."""
    silenced: set[int] = set()
    for number in (number for number, fill in fills.items() if fill):
        silenced |= {number - 1} if number else set()
        held = 0
        for later in range(number, len(one.frames)):
            if one.form[1] != 3 or held >= _REACH or (later in one.holes and later > number):
                break
            place, length = one.frames[later]
            header = frame_header(content[place : place + 4])
            assert header is not None
            if reach(content[place : place + 64]) > held:
                silenced.add(later)
            held += length - header.side - header.side_bytes
    return silenced


def _remarks_on_ends(content: bytes, walk: _Walk, found: list[_Recording]) -> tuple[Remark, ...]:
    """Says where what stands before the first frame or behind the last may have been frames."""
    least = 2 * found[-1].frames[-1][1]
    first = found[0].head.start if found[0].head else found[0].frames[0][0]
    remarks = []
    if walk.led_in >= least and content[max(0, first - walk.led_in) : first].strip(b"\0"):
        remarks.append(damaged(f"its first {walk.led_in:,} bytes hold no frames; they are not read"))
    rest = content[walk.place :]
    # Zeros may be padding.
    if len(rest) >= least and (not found[-1].declared or rest.strip(b"\0")):
        remarks.append(damaged(f"its last {len(rest):,} bytes hold no frames; they are not read"))
    return tuple(remarks)
