"""What is to be probed: which targets, on which clips of a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from voxstrata.analysis.clips import (
    SPEAKER,
    ClipChoice,
    Parts,
    ProbedClip,
    check_phonemes,
    choose_clips,
    class_parts,
    divided_speakers,
    told_targets,
)
from voxstrata.analysis.frame_answers import FRAME_TARGETS, PHONEMES
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError, VoxstrataError

#: What is probed where no target is named, as far as the corpus tells it.
USUAL_TARGETS = ("emotion", "gender", SPEAKER, *FRAME_TARGETS)


@dataclass(frozen=True)
class ProbeOptions:
    """What is probed, and on which clips.

    Args:
        targets: names; none: those of `USUAL_TARGETS` that the corpus tells.
        train: split to train on.
        test: split to test on.
        fold: of the corpus; None: its own division.
        max_clips: of each split, drawn by seed; None: all.
        max_frames: of the training clips, sampled by seed; of the other splits half as many each.
        resamples: bootstrap samples of the intervals.
        seed: of draws, sample and resampling.

    Raises:
        VoxstrataError: if a target is named twice, or a bound is too low.
    """

    targets: tuple[str, ...] = ()
    train: str = "train"
    test: str = "test"
    fold: int | None = None
    max_clips: int | None = None
    max_frames: int = 10_000
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if len(set(self.targets)) < len(self.targets):
            raise VoxstrataError(f"a target is named twice in {', '.join(self.targets)}; name each once")
        for name, least in (("max_clips", 2), ("max_frames", 100), ("resamples", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise VoxstrataError(f"{name} is {value}; at least {least} is needed")


@dataclass(frozen=True)
class ProbePlan:
    """Which clips are run, and which of them every probe is trained and tested on.

    Args:
        options: as given.
        targets: that can be probed.
        clips: to run, by id.
        parts: target of clips -> part -> clip id -> class.
        notes: usual targets that are left out, and why.
    """

    options: ProbeOptions
    targets: tuple[str, ...]
    clips: Mapping[str, ProbedClip]
    parts: Mapping[str, Parts]
    notes: tuple[str, ...]


def plan_probes(corpus: PreparedCorpus, options: ProbeOptions) -> ProbePlan:
    """Chooses clips and divides them; nothing is decoded.

    Args:
        corpus: clips and what they tell.
        options: what is probed.

    Raises:
        CorpusError: if the corpus has not what a named target needs.
    """
    o, targets, notes = options, options.targets, []
    if not targets:
        stated = told_targets(corpus, ClipChoice((), o.train, o.test, o.fold))
        targets = tuple(name for name in USUAL_TARGETS if name in stated)
    clips = choose_clips(corpus, ClipChoice(targets, o.train, o.test, o.fold, o.max_clips, o.seed))
    parts: dict[str, Parts] = {}
    probed = []
    for name in targets:
        try:
            if name == PHONEMES:
                check_phonemes(clips)
            elif name == SPEAKER:
                parts[name] = divided_speakers(clips, o.seed)
            elif name not in FRAME_TARGETS:
                parts[name] = class_parts(name, clips)
            probed.append(name)
        except CorpusError as fault:
            if options.targets:
                raise
            notes.append(f"{name} is left out: {fault}")
    return ProbePlan(options, tuple(probed), clips, parts, tuple(notes))
