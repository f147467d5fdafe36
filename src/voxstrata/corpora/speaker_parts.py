"""Speakers in parts: folds of a corpus, and shares of the training speakers for stages of training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lhotse import CutSet
from lhotse.cut import Cut

from voxstrata.corpora.clip import Clip
from voxstrata.documents import as_number
from voxstrata.errors import CorpusError

#: Column of a table that tells the fold in which a clip is tested.
FOLD = "fold"
#: One is test, the next dev, and there must be some to train on.
_FEWEST_FOLDS = 3
_MOST_FOLDS = 10_000


@dataclass(frozen=True)
class SpeakerShare:
    """Which of the speakers are taken.

    Args:
        part: from 1 to `of`.
        of: parts in all.
        rest: take all speakers but those of the part.
        leave_out_unknown: leave out clips that tell no speaker, instead of refusing them.
    """

    part: int
    of: int
    rest: bool = False
    leave_out_unknown: bool = False


def speaker_parts(clips: Mapping[str, int], of: int) -> dict[str, int]:
    """A division of speakers into parts of about as many clips; every speaker is in exactly one.

    The speaker with the most clips goes first, each to the part that has the fewest so far; where two have
    as many, the hash of their names decides. It depends on names and counts only.

    Args:
        clips: speaker -> clips.
        of: parts.

    Returns:
        Speaker -> part, from 1 to `of`.

    >>> speaker_parts({"ann": 5, "bob": 3, "cy": 2}, 2)
    {'ann': 1, 'bob': 2, 'cy': 2}
    """
    loads = [(0, 0, part) for part in range(1, of + 1)]
    found = {}
    for speaker in sorted(clips, key=lambda name: (-clips[name], _hash(name))):
        held, speakers, part = min(loads)
        loads[part - 1] = (held + clips[speaker], speakers + 1, part)
        found[speaker] = part
    return found


def folds_by_speaker(clips: Sequence[Clip], count: int) -> tuple[tuple[str, ...], ...]:
    """Groups of speakers with about as many clips each: fold k tests group k.

    Args:
        clips: of a corpus.
        count: groups.

    Raises:
        CorpusError: if there are fewer than three groups, or fewer speakers, or a clip tells no speaker.
    """
    if count < _FEWEST_FOLDS:
        raise CorpusError(
            f"{count} folds by speaker leave nobody to train on: one is test and the next dev; give at least "
            f"{_FEWEST_FOLDS}"
        )
    counts = Counter(clip.speaker for clip in clips)
    if unknown := counts.pop(None, 0):
        raise CorpusError(
            f"{unknown} of {len(clips)} clips have no speaker, so folds could share one; give every clip "
            "a speaker, or leave such clips out"
        )
    named = {speaker: clips for speaker, clips in counts.items() if speaker is not None}
    if len(named) < count:
        raise CorpusError(f"{len(named)} speakers are too few for {count} folds; give fewer folds")
    return _groups(speaker_parts(named, count))


def told_folds(clips: Sequence[Clip]) -> tuple[tuple[str, ...], ...]:
    """Groups of speakers by the clips' own column `fold`: 1, 2, ...; empty where no clip has one.

    Speakers without a fold are in the training clips of every fold.

    Raises:
        CorpusError: if a fold is no number of such, a speaker is in two or in none of them too, a clip with a
            fold tells no speaker, or nobody is left to train on.
    """
    given = {clip.id: clip.extras.get(FOLD, "") for clip in clips}
    if not any(given.values()):
        return ()
    folds: dict[str, int | None] = {}
    for clip in clips:
        fold = _fold(clip.id, given[clip.id])
        if clip.speaker is None:
            if fold is not None:
                raise CorpusError(
                    f"clip {clip.id!r} is in fold {fold} and has no speaker; a fold is a group of "
                    "speakers: give a column speaker"
                )
        elif folds.setdefault(clip.speaker, fold) != fold:
            either = " and ".join(f"fold {one}" if one else "none" for one in (folds[clip.speaker], fold))
            raise CorpusError(
                f"speaker {clip.speaker!r} is in {either}; put all clips of a speaker into one fold"
            )
    parts = {speaker: fold for speaker, fold in folds.items() if fold is not None}
    if absent := sorted(set(range(1, max(parts.values()) + 1)) - set(parts.values())):
        raise CorpusError(f"no clip is in fold {absent[0]}; number folds 1, 2, ... without a gap")
    left = [clip for clip in clips if clip.speaker not in parts]
    if max(parts.values()) < (2 if left else _FEWEST_FOLDS):
        raise CorpusError(
            f"{max(parts.values())} folds leave nobody to train on: one is test and the next dev; give "
            f"at least {_FEWEST_FOLDS}"
        )
    return _groups(parts)


def _fold(clip: str, text: str) -> int | None:
    if not text:
        return None
    number = as_number(text)
    if not (number.is_integer() and 1 <= number <= _MOST_FOLDS):
        raise CorpusError(f"clip {clip!r} is in fold {text[:40]!r}; number folds 1, 2, ...")
    return int(number)


def _groups(parts: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """The speakers of each part, in alphabetical order."""
    return tuple(
        tuple(sorted(speaker for speaker, part in parts.items() if part == number))
        for number in range(1, max(parts.values()) + 1)
    )


def taken_speakers(cuts: CutSet, share: SpeakerShare, corpus: str) -> CutSet:
    """The clips of the speakers that are taken, in the same order.

    Args:
        cuts: training clips of one corpus.
        share: which are taken.
        corpus: its name, for messages.

    Raises:
        CorpusError: if a clip tells no speaker, or there are fewer speakers than parts.
    """
    counts = Counter(_speaker(cut) for cut in cuts)
    unknown = counts.pop(None, 0)
    if unknown and not share.leave_out_unknown:
        raise CorpusError(
            f"{unknown} training clips of {corpus} have no speaker, so their parts could share one; "
            "leave them out with speakers.unknown: leave_out"
        )
    named = {speaker: count for speaker, count in counts.items() if speaker is not None}
    if len(named) < share.of:
        raise CorpusError(
            f"{corpus} has {len(named)} training speakers, too few for {share.of} parts; give fewer parts"
        )
    parts = speaker_parts(named, share.of)
    return CutSet.from_cuts(
        cut
        for cut in cuts
        if (speaker := _speaker(cut)) is not None and (parts[speaker] == share.part) != share.rest
    )


def _speaker(cut: Cut) -> str | None:
    speaker: str | None = cut.supervisions[0].speaker
    return speaker


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
