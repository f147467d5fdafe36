"""Emotion label sets. Labels are stored as names, never as indices."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from voxstrata.errors import LabelError, first_of

#: The eight classes of MSP-Podcast in the paper's order (AdaLTM, arXiv 2603.25041, section 3.1).
EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

#: Other spellings of these, in small letters.
_SPELLINGS = {
    "anger": ("angry", "ang"), "contempt": ("contemptuous", "con"), "disgust": ("disgusted", "dis"),
    "fear": ("fearful", "fea"), "happiness": ("happy", "hap"), "neutral": ("neu",),
    "sadness": ("sad",), "surprise": ("surprised", "sur"),
}  # fmt: skip
_OURS = {spelling: name for name in EMOTIONS for spelling in (name, *_SPELLINGS[name])}

#: What annotators rate beside classes, in the order of a model's outputs.
DIMENSIONS = ("arousal", "valence", "dominance")

#: No scale of ratings goes so far; what lies beyond is a fault of the file, and its square may be no number.
LARGEST_RATING = 1e6


def is_one_line(name: str) -> bool:
    r"""Whether a name has no control character, end of line or half a character: it can stand in a list.

    >>> is_one_line("calls/0001"), is_one_line("calls\n0001")
    (True, False)
    """
    # What is printable has none of them, and most names are.
    return name.isprintable() or not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


def as_ours(label: str) -> str:
    """A label of another system as one of `EMOTIONS`, if it is another spelling of one; else as it is.

    >>> as_ours("Angry"), as_ours("hap"), as_ours(" calm")
    ('anger', 'happiness', 'calm')
    """
    return _OURS.get(label.strip().casefold(), label.strip())


def differing_in_case(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ only in capitals or in spaces around them, each group in the order given.

    >>> differing_in_case(["anger", "joy", "Anger", "joy "])
    [('anger', 'Anger'), ('joy', 'joy ')]
    """
    groups: dict[str, dict[str, None]] = {}
    for name in names:
        groups.setdefault(name.strip().casefold(), {})[name] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def require_one_spelling(names: Iterable[str], where: str) -> None:
    """Refuses classes that differ only in capitals or spaces.

    Raises:
        LabelError: naming them.
    """
    if alike := differing_in_case(names):
        stated = first_of((" and ".join(map(repr, group)) for group in alike), between="; ")
        raise LabelError(f"{where}: classes differ only in capitals or spaces: {stated}; write them alike")


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of class names.

    Args:
        names: distinct names, at least two, in the order of a model's outputs.

    Raises:
        LabelError: if a name occurs twice or fewer than two are given.

    >>> LabelSet(("anger", "neutral")).index("neutral")
    1
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(name.strip() for name in self.names):
            raise LabelError(f"a label has no name; name each of {list(self.names)}, or leave it out")
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise LabelError(f"a label set needs at least two distinct names; found {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def index(self, name: str) -> int:
        """The position of a name.

        Raises:
            LabelError: if the name is not in the set.
        """
        if name not in self.names:
            raise LabelError(f"unknown label {name!r}; this label set has {', '.join(self.names)}")
        return self.names.index(name)

    @classmethod
    def of(cls, labels: Iterable[str | None]) -> LabelSet:
        """The set of labels that occur, in alphabetical order (`None` is passed over)."""
        return cls(tuple(sorted({label for label in labels if label is not None})))
