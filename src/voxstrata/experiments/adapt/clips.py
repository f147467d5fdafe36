"""The labelled clips of an adaptation, and how they are divided: no speaker on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lhotse.cut import Cut

from voxstrata.errors import CorpusError, counted
from voxstrata.labels import LabelSet

#: Parts of a cross-validation, where there are speakers and clips enough.
MOST_PARTS = 5
#: Fewer speakers, or fewer clips of a class, are too few to judge a model by.
FEWEST_SPEAKERS = 2
FEWEST_CLIPS = 5


@dataclass(frozen=True)
class LabelledClips:
    """Clips with an emotion each, sorted by id.

    Args:
        cuts: the clips.
        emotions: of each.
        speakers: of each; None where unknown.
    """

    cuts: tuple[Cut, ...]
    emotions: tuple[str, ...]
    speakers: tuple[str | None, ...]

    @classmethod
    def of(cls, cuts: Sequence[Cut]) -> LabelledClips:
        """Those of the clips that have an emotion.

        Raises:
            CorpusError: if they do not tell two classes, or a class has one clip only.
        """
        known = [
            (cut, emotion)
            for cut in sorted(cuts, key=lambda cut: cut.id)
            if (emotion := (cut.supervisions[0].custom or {}).get("emotion")) is not None
        ]
        counts = Counter(emotion for _, emotion in known)
        lonely = sorted(name for name, count in counts.items() if count < 2)
        if len(counts) < 2 or lonely:
            found = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
            raise CorpusError(
                f"labelled clips by class: {found}; at least two classes with two clips each are needed "
                f"(better {FEWEST_CLIPS} and more): label more clips, or take a class out with --map NAME="
            )
        return cls(
            tuple(cut for cut, _ in known),
            tuple(emotion for _, emotion in known),
            tuple(cut.supervisions[0].speaker for cut, _ in known),
        )

    @property
    def labels(self) -> LabelSet:
        """Their classes, in alphabetical order."""
        return LabelSet.of(list(self.emotions))

    def chosen(self, rows: Collection[int]) -> list[Cut]:
        """The clips of some rows."""
        return [self.cuts[row] for row in sorted(rows)]

    def doubts(self) -> list[str]:
        """What makes any score of so few labels doubtful, a sentence each."""
        found = []
        nameless = sum(speaker is None for speaker in self.speakers)
        known = len(set(self.speakers) - {None})
        if nameless:
            found.append(
                f"the speakers of {nameless} of {counted(len(self.cuts), 'clip')} are unknown, so these are "
                "divided clip by clip: the same voice may be trained on and tested, and scores are too high; "
                "add a column speaker"
            )
        elif known < FEWEST_SPEAKERS:
            found.append(
                "all clips are of one speaker, so they are divided clip by clip: the scores hold for this "
                "voice only; label clips of others"
            )
        counts = Counter(self.emotions)
        if few := [f"{name} {count}" for name, count in sorted(counts.items()) if count < FEWEST_CLIPS]:
            found.append(
                f"labels are too few: {', '.join(few)} (clips), and each class needs at least "
                f"{FEWEST_CLIPS}; label more before you trust any of these numbers"
            )
        return found


def parts(clips: LabelledClips, seed: int = 0) -> list[frozenset[int]]:
    """The rows of each part of a cross-validation; every row is in one part.

    Whole speakers lie in a part (scikit-learn's GroupKFold); a clip of an unknown speaker counts as one of
    its own. With one speaker, or none known, clips are divided with each class in every part as far as it
    reaches.

    Args:
        clips: what is divided.
        seed: of the order of clips where there is one speaker.
    """
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    rows = range(len(clips.cuts))
    groups = [f"clip {row}" if name is None else f"speaker {name}" for row, name in enumerate(clips.speakers)]
    if len(set(groups)) >= FEWEST_SPEAKERS and set(clips.speakers) != {None}:
        divided = GroupKFold(min(MOST_PARTS, len(set(groups)))).split(rows, groups=groups)
    else:
        count = max(2, min(MOST_PARTS, *Counter(clips.emotions).values()))
        divided = StratifiedKFold(count, shuffle=True, random_state=seed).split(rows, clips.emotions)
    return [frozenset(tested.tolist()) for _, tested in divided]


def share_of(clips: LabelledClips, rows: Collection[int], share: float) -> frozenset[int]:
    """A share of the rows, of each class its part, at least one clip; smaller shares lie within larger ones.

    Args:
        clips: of which the rows are.
        rows: of the training clips.
        share: in (0, 1].
    """
    taken: set[int] = set()
    for name in set(clips.emotions):
        of_class = sorted((row for row in rows if clips.emotions[row] == name), key=lambda r: _key(clips, r))
        taken.update(of_class[: max(1, round(share * len(of_class)))] if of_class else ())
    return frozenset(taken)


def _key(clips: LabelledClips, row: int) -> str:
    return hashlib.sha256(clips.cuts[row].id.encode()).hexdigest()
