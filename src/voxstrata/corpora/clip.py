"""One utterance of a corpus, as its reader found it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxstrata.documents import as_number
from voxstrata.labels import DIMENSIONS, LARGEST_RATING, is_one_line

SPLITS = ("train", "dev", "test")

#: So far a table's times may be off by rounding.
ROUNDING_S = 0.01

#: Kinds of faults in what is known of a clip.
BAD_ID, BAD_RATING, BAD_VOTES = "unusable id", "unusable rating", "unusable votes"
#: Votes are those of a few people, or shares.
_MOST_VOTES = 1e6
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Clip:
    """One utterance: where its audio lies and what is known of it. Fields that a corpus lacks are None.

    Args:
        id: unique in its corpus; stable across machines (derived from the file's name, not its place).
        path: the audio file.
        speaker: unique in its corpus; None where the corpus does not tell.
        split: one of `SPLITS`.
        emotion: class name (consensus label), e.g. "anger".
        votes: annotators' votes, class name -> count or share.
        text: transcript, normalised by the reader (lower case, no punctuation but apostrophes).
        extras: whatever else the corpus tells, as strings (e.g. {"sentence": "01"}).
        start_s: where the clip starts in its file.
        end_s: where it ends; None: where the file does.
    """

    id: str
    path: Path
    speaker: str | None
    split: str
    emotion: str | None = None
    votes: Mapping[str, float] = field(default_factory=dict)
    text: str | None = None
    extras: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 0.0
    end_s: float | None = None


def is_plain_id(name: str) -> bool:
    r"""Whether an id is the name of a file below any folder: relative, without `..`, in one line.

    >>> [is_plain_id(name) for name in ("calls/0001", "calls/../../evil", "/etc/passwd", "a\nb")]
    [True, False, False, False]
    """
    parts = re.split(r"[/\\]", name)
    return is_one_line(name) and not any(part in ("", ".", "..") or _DRIVE.fullmatch(part) for part in parts)


def told_faults(clip: Clip) -> Iterator[tuple[str, str]]:
    """Kind and detail of what is wrong with what is known of a clip, whatever corpus tells it."""
    if not is_plain_id(clip.id):
        yield BAD_ID, "an id is a name, or names with / between them: relative, without .. and in one line"
    for name in DIMENSIONS:
        stated = clip.extras.get(name)
        if stated in (None, ""):
            continue
        if not is_rating(stated):
            yield BAD_RATING, f"{name} is {stated!r}; give a number on the scale of the annotators, or none"
    if not all(math.isfinite(votes) and 0 <= votes <= _MOST_VOTES for votes in clip.votes.values()):
        yield BAD_VOTES, f"{dict(clip.votes)}; give counts or shares from 0 to {_MOST_VOTES:,.0f}"


def is_rating(value: object) -> bool:
    """Whether a value, or a text, is a number that a scale of ratings may have."""
    return abs(as_number(value)) <= LARGEST_RATING
