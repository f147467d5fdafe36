"""Speaker turns as RTTM files have them (NIST, Rich Transcription 2009, appendix A): read and written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from voxstrata.audio import shown
from voxstrata.documents import text_encoding
from voxstrata.errors import AudioError
from voxstrata.inference.recognition import Recognition, named_emotion

#: Kinds of lines that are no turns, passed over.
_OTHERS = frozenset(
    {"SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU",
     "CB", "A/P", "SPKR-INFO"}
)  # fmt: skip
#: A turn may end so much after the recording, by rounding, in seconds.
_BEYOND_S = 0.5
_NOTHING = "<NA>"
_ADVICE = "mend that line, or give the turns of another tool"


@dataclass(frozen=True)
class Turn:
    """A speaker's turn.

    Args:
        start_s: in seconds from the beginning of the recording.
        end_s: likewise.
        speaker: whose it is.
        channel: of the recording, from 1.
        line: of the file, from 1.
    """

    start_s: float
    end_s: float
    speaker: str
    channel: int
    line: int


class Turns:
    """Speaker turns of recordings.

    Args:
        source: an RTTM file of one or many recordings, or a folder with NAME.rttm for each recording.

    Raises:
        AudioError: if there is no such file, or it is not RTTM.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.by_file: dict[str, list[Turn]] | None = None
        if not source.is_dir():
            self.by_file = read_rttm(source)

    def of(self, recording: Path, *, named: bool = True) -> list[Turn]:
        """The turns of a recording: those whose file is called as it is without its suffix, in order of time.

        In a file of the recording's own name all turns are its own.

        Args:
            recording: its path, or what it is called in messages.
            named: it has a name of its own; else all turns are its own.

        Raises:
            AudioError: if there are none.
        """
        place, found = self.source, self.by_file
        if found is None:
            place = self.source / f"{recording.stem}.rttm"
            if not place.is_file():
                raise AudioError(
                    f"no turns of {shown(recording)}: {shown(place)} is not there; write it, or leave the "
                    "recording out"
                )
            found = read_rttm(place)
        own = len(found) == 1 and (not named or place.stem == recording.stem)
        turns = next(iter(found.values())) if own else found.get(recording.stem)
        if not turns:
            held = ", ".join(sorted(found)[:5]) + (", ..." if len(found) > 5 else "")
            raise AudioError(
                f"{shown(place)} has no turns of {recording.stem!r}, it has turns of {held}; name the "
                "recording so, or give the turns of this one"
            )
        return turns


def read_rttm(path: Path) -> dict[str, list[Turn]]:
    """The turns of an RTTM file: name of a recording -> its turns, in order of time.

    Raises:
        AudioError: naming the line, if it cannot be read as RTTM.
    """
    try:
        content = path.read_bytes()
        text = content.decode(text_encoding(content))
    except OSError as fault:
        raise AudioError(
            f"cannot read turns from {shown(path)}: {fault.strerror}; give an RTTM file, or a folder of them"
        ) from None
    except UnicodeDecodeError as fault:
        raise AudioError(
            f"{shown(path)} is not UTF-8 text (byte {fault.start}), so no RTTM; {_ADVICE}"
        ) from None
    found: dict[str, list[Turn]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.split()
        if not parts or line.lstrip().startswith(";") or parts[0] in _OTHERS:
            continue
        where = f"{shown(path)}, line {number}"
        if parts[0] != "SPEAKER" or not 8 <= len(parts) <= 10:
            raise AudioError(
                f"{where}: {line.strip()[:60]!r} is no line of RTTM; a turn is SPEAKER FILE CHANNEL START "
                f"DURATION <NA> <NA> NAME <NA> <NA>: {_ADVICE}"
            )
        found.setdefault(parts[1], []).append(_turn(parts, where, number))
    if not found:
        raise AudioError(f"{shown(path)} has no turns (no line begins with SPEAKER); {_ADVICE}")
    return {name: sorted(turns, key=lambda turn: (turn.start_s, turn.end_s)) for name, turns in found.items()}


def _turn(parts: list[str], where: str, number: int) -> Turn:
    numbers = []
    for name, cell in (("start", parts[3]), ("duration", parts[4])):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise AudioError(f"{where}: the {name} is {cell[:30]!r}; it is in seconds, 0 or more: {_ADVICE}")
        numbers.append(value)
    start_s, duration_s = numbers
    channel = "1" if parts[2] == _NOTHING else parts[2]
    if not channel.isdecimal() or len(channel) > 3:
        raise AudioError(f"{where}: the channel is {channel[:30]!r}; it is a number from 1: {_ADVICE}")
    return Turn(start_s, start_s + duration_s, parts[7], max(1, int(channel)), number)


def within(turns: list[Turn], duration_s: float, name: str) -> list[Turn]:
    """Turns of a recording, cut at its end; turns of one speaker that overlap as one.

    Args:
        turns: in order of time.
        duration_s: of the recording.
        name: of the recording, for messages.

    Raises:
        AudioError: if a turn lies behind the end.
    """
    found: list[Turn] = []
    last: dict[tuple[str, int], int] = {}
    for turn in turns:
        if turn.end_s > duration_s + _BEYOND_S:
            raise AudioError(
                f"a turn of {turn.speaker!r} ends at {turn.end_s:g} s (line {turn.line}), and {name} lasts "
                f"{duration_s:.2f} s; give the turns of this recording"
            )
        end_s = min(turn.end_s, duration_s)
        start_s = min(turn.start_s, end_s)
        key = turn.speaker, turn.channel
        before = found[last[key]] if key in last else None
        if before is not None and start_s < before.end_s:
            end_s = max(before.end_s, end_s)
            found[last[key]] = Turn(before.start_s, end_s, before.speaker, before.channel, before.line)
            continue
        last[key] = len(found)
        found.append(Turn(start_s, end_s, turn.speaker, turn.channel, turn.line))
    return found


def rttm_lines(found: Recognition, name: str) -> Iterator[str]:
    """The segments of a recording as turns.

    The emotion stands as the turn's subtype (field 7), with ",unsure" behind one that is, and its probability
    as confidence (field 9); tools that read speaker turns pass over both.

    Args:
        found: what was recognised.
        name: of the recording, without a space.
    """
    for segment in found.segments:
        share = (segment.probabilities or {}).get(segment.emotion or "")
        channel = segment.channel or 1
        speaker = segment.speaker or ("speech" if segment.channel is None else f"channel{channel}")
        yield " ".join(
            (
                "SPEAKER",
                _cell(name),
                str(channel),
                f"{segment.start_s:.3f}",
                f"{max(0.001, round(segment.end_s, 3) - round(segment.start_s, 3)):.3f}",
                _NOTHING,
                _cell((named_emotion(segment) or _NOTHING).replace(", ", ",")),
                _cell(speaker),
                _NOTHING if share is None else f"{share:.3f}",
                _NOTHING,
            )
        )


def file_ids(paths: Sequence[str]) -> dict[str, str]:
    """The name of each recording in RTTM: that of its file; of a second one of that name its whole path.

    >>> file_ids(["calls/one.wav", "more/one.wav", "-"])
    {'calls/one.wav': 'one', 'more/one.wav': 'more/one', '-': '-'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        whole = Path(path)
        choices = [whole.stem, str(whole.with_suffix("")), path]
        numbered = (f"{path}-{number}" for number in range(2, len(paths) + 2))
        chosen = next(name for name in map(_cell, chain(choices, numbered)) if name not in taken)
        taken.add(chosen)
        found[path] = chosen
    return found


def _cell(text: str) -> str:
    """Text without spaces, which part the fields of a line."""
    return "_".join(text.split()) or _NOTHING
