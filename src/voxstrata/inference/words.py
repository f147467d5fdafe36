"""Words with times: spread over a stretch, joined where two windows overlap, handed to segments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

#: Han, kana and their punctuation: scripts that put no space between words. A character is a word here.
_UNSPACED = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff60"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_ONE_UNSPACED = re.compile(f"[{_UNSPACED}]")
#: Words that are the same in both windows may stand so far apart in time, in seconds.
_APART_S = 1.0

#: Start and end in seconds.
Span = tuple[float, float]


@dataclass(frozen=True)
class Word:
    """A word and when it is spoken, in seconds from the beginning of the recording."""

    text: str
    start_s: float
    end_s: float

    @property
    def middle_s(self) -> float:
        """Between start and end."""
        return (self.start_s + self.end_s) / 2


def words_in(text: str) -> list[str]:
    """The words of a text.

    >>> words_in("go on, 你好"), text_of(words_in("go on, 你好"))
    (['go', 'on,', '你', '好'], 'go on, 你好')
    """
    return _WORD.findall(text)


def text_of(words: Iterable[str]) -> str:
    """Words as a text: with spaces between them, but for scripts that have none."""
    text = ""
    for word in words:
        close = not text or (_ONE_UNSPACED.match(text[-1]) and _ONE_UNSPACED.match(word))
        text += word if close else f" {word}"
    return text


def spread(words: Sequence[str], spans: Sequence[Span]) -> list[Word]:
    """Words over stretches of time, each as long as its letters: where only whole phrases have times.

    Args:
        words: in order.
        spans: of speech, in order; at least one.

    >>> spread(["ab", "cd"], [(1.0, 2.0), (5.0, 6.0)])
    [Word(text='ab', start_s=1.0, end_s=2.0), Word(text='cd', start_s=5.0, end_s=6.0)]
    """
    total_s = sum(end_s - start_s for start_s, end_s in spans)
    letters = sum(map(len, words))
    found, place = [], 0
    for word in words:
        start_s = _time_at(total_s * place / letters, spans, ahead=True)
        place += len(word)
        end_s = _time_at(total_s * place / letters, spans, ahead=False)
        found.append(Word(word, start_s, max(start_s, end_s)))
    return found


def _time_at(seconds: float, spans: Sequence[Span], *, ahead: bool) -> float:
    """When so many seconds of the stretches are over; between two of them: in the next one if `ahead`."""
    for start_s, end_s in spans:
        length_s = end_s - start_s
        if seconds < length_s - 1e-9 or (not ahead and seconds <= length_s + 1e-9):
            return start_s + min(max(0.0, seconds), length_s)
        seconds -= length_s
    return spans[-1][1]


def joined(left: Sequence[Word], right: Sequence[Word], overlap: Span) -> tuple[list[Word], list[Word]]:
    """The words of two windows that overlap, so that those spoken in both stand once.

    The longest run of words that both windows have about the overlap is where one goes over into the other.
    Where they have none in common, the middle of the overlap is.

    Args:
        left: of the earlier window, in order.
        right: of the later one.
        overlap: what both windows cover.

    Returns:
        What is left of each.
    """
    start_s, end_s = overlap
    ours = [k for k, word in enumerate(left) if word.end_s > start_s - _APART_S]
    theirs = [k for k, word in enumerate(right) if word.start_s < end_s + _APART_S]
    keys = [_key(left[k].text) for k in ours], [_key(right[k].text) for k in theirs]
    run = SequenceMatcher(None, *keys, autojunk=False).find_longest_match()
    if run.size:
        last, first = ours[run.a + run.size - 1], theirs[run.b + run.size - 1]
        if abs(left[last].middle_s - right[first].middle_s) <= _APART_S + (end_s - start_s):
            return list(left[: last + 1]), list(right[first + 1 :])
    middle_s = (start_s + end_s) / 2
    return (
        [word for word in left if word.middle_s < middle_s],
        [word for word in right if word.middle_s >= middle_s],
    )


def _key(word: str) -> str:
    """A word as it is compared: without capitals and punctuation."""
    return re.sub(r"[\W_]", "", word.casefold()) or word


def among(words: Iterable[Word], spans: Sequence[Span]) -> list[tuple[Word, ...]]:
    """The words of each stretch: each word goes to the one that holds its middle, or is nearest.

    Args:
        words: in order.
        spans: in order, at least one.
    """
    found: list[list[Word]] = [[] for _ in spans]
    for word in words:
        middle_s = word.middle_s
        distances = [max(start_s - middle_s, middle_s - end_s, 0.0) for start_s, end_s in spans]
        found[distances.index(min(distances))].append(word)
    return [tuple(part) for part in found]
