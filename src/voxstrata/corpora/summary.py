"""Counts of a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from voxstrata.audio import SAMPLE_RATE
from voxstrata.corpora.clip import SPLITS, Clip

#: Stands for clips whose speaker is not known, or that carry no emotion.
UNKNOWN = "-"
#: Stands for all splits together.
ALL = "all"


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split, or of all.

    Args:
        clips: utterances.
        duration_min: minutes of audio.
        speakers: known speakers.
        with_emotion: clips that carry an emotion.
        with_text: clips that have a transcript.
    """

    clips: int
    duration_min: float
    speakers: int
    with_emotion: int
    with_text: int


@dataclass(frozen=True)
class CorpusSummary:
    """Counts per split, class and speaker.

    Args:
        splits: split -> counts, without the splits that are not there; and "all".
        emotions: class -> split -> clips; clips without an emotion under "-".
        speakers: speaker -> clips; unknown speakers under "-".
    """

    splits: Mapping[str, SplitCounts]
    emotions: Mapping[str, Mapping[str, int]]
    speakers: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CorpusSummary:
        """What `as_dict` gave."""
        splits = {name: SplitCounts(**counts) for name, counts in content["splits"].items()}
        return cls(splits, content["emotions"], content["speakers"])


def summarize(clips: Sequence[Clip], samples: Sequence[int], labels: Sequence[str]) -> CorpusSummary:
    """Counts clips.

    Args:
        clips: the corpus.
        samples: each clip's length at 16 kHz.
        labels: classes that are named even where no clip has them.
    """
    present = [split for split in SPLITS if any(clip.split == split for clip in clips)]
    lengths = list(zip(clips, samples, strict=True))
    splits = {split: _counts([pair for pair in lengths if pair[0].split == split]) for split in present}
    splits[ALL] = _counts(lengths)
    found = {clip.emotion for clip in clips if clip.emotion is not None}
    classes = [*labels, *sorted(found - set(labels))]
    if any(clip.emotion is None for clip in clips):
        classes.append(UNKNOWN)
    pairs = Counter((clip.emotion or UNKNOWN, clip.split) for clip in clips)
    speakers = Counter(clip.speaker or UNKNOWN for clip in clips)
    return CorpusSummary(
        splits=splits,
        emotions={name: {split: pairs[name, split] for split in present} for name in classes},
        speakers=dict(sorted(speakers.items())),
    )


def _counts(lengths: Sequence[tuple[Clip, int]]) -> SplitCounts:
    clips = [clip for clip, _ in lengths]
    return SplitCounts(
        clips=len(clips),
        duration_min=round(sum(n for _, n in lengths) / SAMPLE_RATE / 60, 3),
        speakers=len({clip.speaker for clip in clips if clip.speaker is not None}),
        with_emotion=sum(clip.emotion is not None for clip in clips),
        with_text=sum(clip.text is not None for clip in clips),
    )
