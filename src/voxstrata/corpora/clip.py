"""One utterance of a corpus, as its reader found it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "dev", "test")


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
    """

    id: str
    path: Path
    speaker: str | None
    split: str
    emotion: str | None = None
    votes: Mapping[str, float] = field(default_factory=dict)
    text: str | None = None
    extras: Mapping[str, str] = field(default_factory=dict)
