"""A recognised recording as subtitles: SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from voxstrata.inference.recognition import Recognition, Segment, named_emotion
from voxstrata.inference.words import Word, text_of

#: Characters of a line on the screen, and lines at once.
_LINE, _LINES = 42, 2


@dataclass(frozen=True)
class Cue:
    """What is shown at once.

    Args:
        start_ms: in milliseconds from the beginning of the recording.
        end_ms: later than that.
        speaker: or channel; "" where it is not known.
        text: the emotion in brackets and the words.
    """

    start_ms: int
    end_ms: int
    speaker: str
    text: str


def cues(found: Recognition) -> Iterator[Cue]:
    """The cues of a recording, in order of time: a segment each, long ones in pieces between two words."""
    for segment in found.segments:
        mark = "" if segment.emotion is None else f"({named_emotion(segment)})"
        taken = len(mark) + len(_speaker(segment)) + 4
        parts = _parts(segment, max(_LINE, _LINE * _LINES - taken))
        for k, (start_s, end_s, text) in enumerate(parts):
            # Where words have no times, a part lasts to the next one.
            end_s = min(end_s, parts[k + 1][0]) if k + 1 < len(parts) else end_s
            start_ms = round(1000 * start_s)
            shown = " ".join(filter(None, (mark, text))) or segment.note or "(speech)"
            yield Cue(start_ms, max(start_ms + 1, round(1000 * end_s)), _speaker(segment), _line(shown))


def _parts(segment: Segment, most: int) -> list[tuple[float, float, str]]:
    """Start, end and text of as many words as fit the screen, in parts of about one length.

    Args:
        segment: with or without words.
        most: letters that fit.
    """
    if not segment.words:
        return [(segment.start_s, segment.end_s, segment.transcript or "")]
    letters = len(text_of(word.text for word in segment.words))
    each = letters / math.ceil(letters / most)
    groups: list[list[Word]] = [[]]
    for word in segment.words:
        together = text_of([*(one.text for one in groups[-1]), word.text])
        # The word that goes over the end stands where more of it does.
        if groups[-1] and len(together) > min(most, each + len(word.text) / 2):
            groups.append([])
        groups[-1].append(word)
    # The first and the last one fill the segment, so that its emotion is shown as long as it lasts.
    starts = [segment.start_s, *(max(segment.start_s, group[0].start_s) for group in groups[1:])]
    ends = [*(min(segment.end_s, group[-1].end_s) for group in groups[:-1]), segment.end_s]
    texts = [text_of(word.text for word in group) for group in groups]
    return list(zip(starts, ends, texts, strict=True))


def _speaker(segment: Segment) -> str:
    channel = "" if segment.channel is None else f"channel {segment.channel}"
    return _line(segment.speaker or channel)


def _line(text: str) -> str:
    """Text in one line: an empty line, or an arrow, would end a cue."""
    return " ".join(text.split()).replace("-->", "->")


def clock(milliseconds: int, point: str) -> str:
    """A time as subtitles have it; hours may have more than two digits.

    >>> clock(3_723_004, ","), clock(360_000_000, ".")
    ('01:02:03,004', '100:00:00.000')
    """
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"


def srt_lines(found: Recognition) -> Iterator[str]:
    """A recording as SubRip."""
    for number, cue in enumerate(cues(found), start=1):
        speaker = f"{cue.speaker}: " if cue.speaker else ""
        yield str(number)
        yield f"{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}"
        yield from _wrapped(f"{speaker}{cue.text}")
        yield ""


def vtt_lines(found: Recognition) -> Iterator[str]:
    """A recording as WebVTT (W3C); a speaker stands in a voice tag."""
    yield "WEBVTT"
    yield ""
    for cue in cues(found):
        yield f"{clock(cue.start_ms, '.')} --> {clock(cue.end_ms, '.')}"
        lines = list(map(_escaped, _wrapped(cue.text)))
        if cue.speaker:
            lines[0] = f"<v {_escaped(cue.speaker)}>{lines[0]}"
        yield from lines
        yield ""


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _LINE, break_long_words=False, break_on_hyphens=False) or [text]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
