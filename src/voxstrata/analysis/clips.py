"""Which clips of a corpus a probe is trained and tested on, and what their classes are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lhotse import MonoCut

from voxstrata.analysis.frame_answers import ENERGY, FRAME_TARGETS, PHONEMES, PITCH
from voxstrata.batches.buckets import derived_seed, drawn_ids
from voxstrata.corpora.clip import SPLITS
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError

SPEAKER = "speaker"
#: Speakers with fewer clips are left out, and so are more speakers than these.
LEAST_CLIPS, MOST_SPEAKERS = 5, 50

_NONE_TELLS = "no {part} clip has {name}; probe other targets, or take more clips or another corpus"

#: Part ("train", "test", "dev") -> clip id -> its class. "dev" may be absent.
Parts = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class ProbedClip:
    """A clip that is run.

    Args:
        part: "train", "test" or "dev".
        speaker: None where not known.
        classes: target -> class, of those targets that are asked and known.
        phonemes: whether its phonemes are known.
    """

    part: str
    speaker: str | None
    classes: Mapping[str, str]
    phonemes: bool


@dataclass(frozen=True)
class ClipChoice:
    """Which clips are taken.

    Args:
        targets: what is asked; clips that tell none of it are left out.
        train: split whose clips the probes are trained on.
        test: split that they are tested on. "dev", where it is neither, chooses the regularisation.
        fold: of the corpus; None: its own division.
        max_clips: of each split, drawn by seed; None: all.
        seed: of the draw.
    """

    targets: tuple[str, ...]
    train: str = "train"
    test: str = "test"
    fold: int | None = None
    max_clips: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (self.train, self.test):
            if name not in SPLITS:
                raise CorpusError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        if self.train == self.test:
            raise CorpusError(
                f"train and test are both the split {self.train}; a probe is tested on clips that it was "
                "not trained on: choose two splits"
            )

    @property
    def parts(self) -> dict[str, str]:
        """Split -> part."""
        named = {self.train: "train", self.test: "test"}
        return named if "dev" in named else named | {"dev": "dev"}


def told_targets(corpus: PreparedCorpus, choice: ClipChoice) -> set[str]:
    """What clips of the used splits tell: names of columns, `speaker`, and what every recording has.

    Raises:
        CorpusError: if the fold does not exist.
    """
    cuts = (cut for cut in corpus.stream(None, choice.fold) if cut.custom["split"] in choice.parts)
    return {PITCH, ENERGY} | {name for cut in cuts for name, value in _columns(cut).items() if value}


def choose_clips(corpus: PreparedCorpus, choice: ClipChoice) -> dict[str, ProbedClip]:
    """The clips to run, by id, in the corpus's order.

    Raises:
        CorpusError: if train or test has no clips, or no clip tells a target.
    """
    found: dict[str, ProbedClip] = {}
    stated = {PITCH, ENERGY}
    counts: Counter[str] = Counter()
    for cut in corpus.stream(None, choice.fold):
        split = cut.custom["split"]
        counts[split] += 1
        if split in choice.parts:
            clip = _clip(cut, choice)
            stated |= {*clip.classes, *([PHONEMES] if clip.phonemes else [])}
            if clip.classes or clip.phonemes or {PITCH, ENERGY} & set(choice.targets):
                found[cut.id] = clip
    for split in (choice.train, choice.test):
        if not counts[split]:
            held = ", ".join(f"{name} {counts[name]}" for name in SPLITS if counts[name])
            raise CorpusError(
                f"{corpus.name} has no {split} clips; it has {held}: choose with --train and --test"
            )
    if lacking := [name for name in choice.targets if name not in stated]:
        there = ", ".join(sorted(told_targets(corpus, choice)))
        raise CorpusError(f"no clip of {corpus.name} tells {' or '.join(lacking)}; there are {there}")
    return _drawn(found, choice)


def class_parts(name: str, clips: Mapping[str, ProbedClip]) -> Parts:
    """The clips that tell a class, by the part that they are in.

    Raises:
        CorpusError: if train or test has no such clip or one class only, or test has a class of its own.
    """
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for clip_id, clip in clips.items():
        if name in clip.classes:
            parts[clip.part][clip_id] = clip.classes[name]
    classes = {part: set(parts[part].values()) for part in ("train", "test")}
    for part, names in classes.items():
        if not names:
            raise CorpusError(_NONE_TELLS.format(part=part, name=name))
        if len(names) < 2:
            raise CorpusError(
                f"all {part} clips that tell {name} have the one class {next(iter(names))!r}; a probe needs "
                "two: take more clips or other splits"
            )
    if unseen := sorted(classes["test"] - classes["train"]):
        raise CorpusError(
            f"{len(unseen)} of the {len(classes['test'])} classes of {name} in the test clips are in no "
            f"training clip, {unseen[0]!r} first; take more clips or other splits"
        )
    return dict(parts)


def check_phonemes(clips: Mapping[str, ProbedClip]) -> None:
    """Sees that there are phonemes to train on and to test on.

    Raises:
        CorpusError: if train or test has no clip that tells them.
    """
    for part in ("train", "test"):
        if not any(clip.phonemes for clip in clips.values() if clip.part == part):
            raise CorpusError(_NONE_TELLS.format(part=part, name=PHONEMES))


def divided_speakers(clips: Mapping[str, ProbedClip], seed: int) -> Parts:
    """Each speaker's clips divided at random: three fifths to train on, one to choose by, one to test on.

    Splits of a corpus share no speakers, so the clips of all are used. Of more than `MOST_SPEAKERS` so many
    are drawn.

    Raises:
        CorpusError: if fewer than two speakers have `LEAST_CLIPS` clips.
    """
    own: dict[str, list[str]] = defaultdict(list)
    for clip_id, clip in clips.items():
        if SPEAKER in clip.classes:
            own[clip.classes[SPEAKER]].append(clip_id)
    enough = [speaker for speaker, ids in own.items() if len(ids) >= LEAST_CLIPS]
    if len(enough) < 2:
        raise CorpusError(
            f"{len(enough)} speakers have {LEAST_CLIPS} clips or more; a probe of speaker needs two: take "
            "more clips"
        )
    enough = sorted(enough, key=lambda speaker: derived_seed(seed, speaker))[:MOST_SPEAKERS]
    parts: dict[str, dict[str, str]] = {"train": {}, "test": {}, "dev": {}}
    for speaker in enough:
        ids = sorted(own[speaker], key=lambda clip_id: derived_seed(seed, SPEAKER, clip_id))
        fifth = len(ids) // 5
        for place, clip_id in enumerate(ids):
            part = "test" if place < fifth else "dev" if place < 2 * fifth else "train"
            parts[part][clip_id] = speaker
    return parts


def _columns(cut: MonoCut) -> dict[str, str]:
    """What a cut tells in words: its speaker, and those columns that are no tables."""
    supervision = cut.supervisions[0]
    stated = {name: value for name, value in (supervision.custom or {}).items() if isinstance(value, str)}
    return stated | {SPEAKER: supervision.speaker or ""}


def _clip(cut: MonoCut, choice: ClipChoice) -> ProbedClip:
    stated = _columns(cut)
    asked = [name for name in choice.targets if name not in FRAME_TARGETS]
    return ProbedClip(
        part=choice.parts[cut.custom["split"]],
        speaker=stated[SPEAKER] or None,
        classes={name: stated[name] for name in asked if stated.get(name)},
        phonemes=PHONEMES in choice.targets and bool(stated.get(PHONEMES)),
    )


def _drawn(clips: dict[str, ProbedClip], choice: ClipChoice) -> dict[str, ProbedClip]:
    if choice.max_clips is None:
        return clips
    kept: set[str] = set()
    for part in set(choice.parts.values()):
        own = [clip_id for clip_id, clip in clips.items() if clip.part == part]
        kept |= drawn_ids(own, choice.max_clips, choice.seed)
    return {clip_id: clip for clip_id, clip in clips.items() if clip_id in kept}


def chosen_cuts(
    corpus: PreparedCorpus, clips: Mapping[str, ProbedClip], fold: int | None
) -> Iterator[MonoCut]:
    """The cuts of the chosen clips, one at a time."""
    return (cut for cut in corpus.stream(None, fold) if cut.id in clips)
