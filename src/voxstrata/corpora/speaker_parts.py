"""Training speakers in parts: what one stage of training learns from, the next one has not heard."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lhotse import CutSet
from lhotse.cut import Cut

from voxstrata.errors import CorpusError


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
            f"{unknown} training clips of {corpus} tell no speaker, so their parts could share one; "
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
