"""Words with times: spread over a stretch, joined where two windows overlap, handed to segments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate

#: Han, kana and their punctuation: scripts that put no space between words. A character is a word here.
_UNSPACED = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff60"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_ONE_UNSPACED = re.compile(f"[{_UNSPACED}]")
#: Words that are the same in both windows may stand so far apart in time, in seconds.
_APART_S = 1.0

#: The end of a clause, and so many words about a pause in which one is looked for.
_ENDS, _NEAR = (".", ",", "?", "!", ";", ":", "。", "、", "？", "！"), 3

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

    Between two stretches is a pause, so they part at the end of a clause if one is near.

    Args:
        words: in order.
        spans: of speech, in order; at least one.

    >>> spread(["ab", "cd"], [(1.0, 2.0), (5.0, 6.0)])
    [Word(text='ab', start_s=1.0, end_s=2.0), Word(text='cd', start_s=5.0, end_s=6.0)]
    """
    letters = [0, *accumulate(map(len, words))]
    seconds = [0.0, *accumulate(end_s - start_s for start_s, end_s in spans)]
    total_s = seconds[-1] or 1.0
    parts = [_part(words, letters, letters[-1] * time_s / total_s) for time_s in seconds[:-1]]
    found = []
    for (start_s, end_s), first, last in zip(spans, parts, [*parts[1:], len(words)], strict=True):
        last = max(first, last)
        each_s = (end_s - start_s) / max(1, letters[last] - letters[first])
        for k in range(first, last):
            times = (start_s + each_s * (place - letters[first]) for place in letters[k : k + 2])
            found.append(Word(words[k], *times))
    return found


def _part(words: Sequence[str], letters: Sequence[int], place: float) -> int:
    """The word from which on words belong to the next stretch: the nearest to a place among the letters."""
    if place <= 0:
        return 0
    nearest = min(range(len(letters)), key=lambda k: abs(letters[k] - place))
    clauses = [
        k
        for k in range(max(1, nearest - _NEAR), min(len(words), nearest + _NEAR) + 1)
        if words[k - 1].rstrip("\"')”’»").endswith(_ENDS)
    ]
    return min(clauses, key=lambda k: abs(k - nearest), default=nearest)


def joined(left: Sequence[Word], right: Sequence[Word], overlap: Span) -> tuple[list[Word], list[Word]]:
    """The words of two windows that overlap, so that those spoken in both stand once.

    The longest run of words that both windows have about the overlap is where one goes over into the other;
    else a word that one window cuts and the other has whole; else the middle of the overlap.

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
    if ours and theirs:
        # The second window may begin within a word, and the first one end within one.
        whole = next((k for k in reversed(ours) if _is_part(keys[1][0], of_end=_key(left[k].text))), None)
        if whole is not None:
            return list(left[: whole + 1]), list(right[theirs[0] + 1 :])
        whole = next((k for k in theirs if _is_part(keys[0][-1], of_begin=_key(right[k].text))), None)
        if whole is not None:
            return list(left[: ours[-1]]), list(right[whole:])
    middle_s = (start_s + end_s) / 2
    return (
        [word for word in left if word.middle_s < middle_s],
        [word for word in right if word.middle_s >= middle_s],
    )


def _is_part(cut: str, *, of_begin: str = "", of_end: str = "") -> bool:
    """Whether a word that was cut is the begin, or the end, of a longer one."""
    return len(cut) > 1 and ((of_begin != cut and of_begin.startswith(cut)) or of_end.endswith(cut))


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
