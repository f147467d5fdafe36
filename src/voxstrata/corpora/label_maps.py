"""Maps from one set of emotion labels to another, by name or OLD=NEW. A map names every label it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from voxstrata.corpora.clip import Clip
from voxstrata.errors import LabelError, counted, did_you_mean, first_of
from voxstrata.labels import EMOTIONS, is_one_line


@dataclass(frozen=True)
class LabelMap:
    """What becomes of each label.

    Args:
        name: as given on the command line.
        description: one line.
        changes: label -> new label, or None where the clip shall carry no emotion.
        keeps: labels that stay; None lets every label stay that is not in `changes`.
        found_all: every label in `changes` must occur, for a user wrote it and may have mistyped it.
    """

    name: str
    description: str
    changes: Mapping[str, str | None]
    keeps: tuple[str, ...] | None = None
    found_all: bool = False

    def target(self, label: str) -> str | None:
        """The new label; None where the clip shall carry no emotion.

        Raises:
            LabelError: if the map has no line for the label.
        """
        if label in self.changes:
            return self.changes[label]
        self.require_known([label])
        return label

    def require_known(self, labels: Iterable[str]) -> None:
        """Refuses labels that the map says nothing of.

        Raises:
            LabelError: naming the first of them, and how many there are.
        """
        if self.keeps is None:
            return
        if unknown := sorted(set(labels) - set(self.keeps) - set(self.changes)):
            known = ", ".join([*self.keeps, *self.changes])
            raise LabelError(
                f"map {self.name} has no line for {first_of(map(repr, unknown))}; it knows {known}; "
                "map what is not known first (--map OLD=NEW), or prepare without this map"
            )

    def targets(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The label set that becomes of another, in its order; labels that fall together stand once."""
        new = (self.target(label) for label in labels)
        return tuple(dict.fromkeys(label for label in new if label is not None))


FOUR_CLASSES = ("anger", "happiness", "neutral", "sadness")

LABEL_MAPS: dict[str, LabelMap] = {
    label_map.name: label_map
    for label_map in (
        LabelMap("calm-to-neutral", "RAVDESS's calm counts as neutral", {"calm": "neutral"}),
        LabelMap(
            "excited-to-happy",
            "IEMOCAP's excitement counts as happiness",
            {"excitement": "happiness"},
        ),
        LabelMap(
            "four-classes",
            "anger, happiness, neutral and sadness stay; clips of other classes carry no emotion",
            dict.fromkeys(
                sorted({*EMOTIONS, "calm", "excitement", "frustration", "other"} - set(FOUR_CLASSES))
            ),
            keeps=FOUR_CLASSES,
        ),
    )
}


def label_map_named(name: str) -> LabelMap:
    """A map by its name, or one of a single label: OLD=NEW, or OLD= where its clips shall carry no emotion.

    >>> label_map_named("happy=happiness").target("happy"), label_map_named("other=").target("other")
    ('happiness', None)

    Raises:
        LabelError: if there is none.
    """
    if name in LABEL_MAPS:
        return LABEL_MAPS[name]
    old, separator, new = (part.strip() for part in name.partition("="))
    if not (old and separator) or "=" in new or not is_one_line(name):
        raise LabelError(
            f"no label map {name!r}{did_you_mean(name, LABEL_MAPS)}; there are "
            f"{', '.join(LABEL_MAPS)}, and OLD=NEW for a label of your own"
        )
    said = f"{old} counts as {new}" if new else f"clips of {old} carry no emotion"
    return LabelMap(f"{old}={new}", said, {old: new or None}, found_all=True)


def map_labels(clips: Sequence[Clip], label_map: LabelMap) -> tuple[list[Clip], str]:
    """Maps consensus labels and votes, and says on one line what that did.

    A clip whose consensus goes loses its votes too: the votes that are left would make it an example of
    a class that most annotators did not hear. Votes for labels that fall together are added.

    Raises:
        LabelError: if the map has no line for a label, or is of a label that no clip has.
    """
    label_map.require_known(_labels_in(clips))
    mapped: list[Clip] = []
    clip_counts: Counter[str] = Counter()
    vote_counts: Counter[str] = Counter()
    for clip in clips:
        emotion = label_map.target(clip.emotion) if clip.emotion is not None else None
        votes: dict[str, float] = {}
        for label, count in clip.votes.items():
            target = label_map.target(label)
            if target is not None:
                votes[target] = votes.get(target, 0.0) + count
        clip_counts.update([clip.emotion] if clip.emotion is not None else [])
        vote_counts.update(clip.votes.keys())
        if clip.emotion is not None and emotion is None:
            votes = {}
        mapped.append(replace(clip, emotion=emotion, votes=dict(sorted(votes.items()))))
    labels = {*clip_counts, *vote_counts}
    if label_map.found_all and (absent := sorted(set(label_map.changes) - labels)):
        raise LabelError(
            f"map {label_map.name}: no clip has {first_of(map(repr, absent))}; "
            f"the labels at this point are {', '.join(sorted(labels)) or 'none'}"
        )
    return mapped, _account(label_map, clip_counts, vote_counts)


def map_all(clips: Sequence[Clip], label_maps: Sequence[LabelMap]) -> tuple[list[Clip], list[str]]:
    """Maps clips by several maps, one after the other; all that they do not fit is refused at once.

    Raises:
        LabelError: see `map_labels`.
    """
    notes, faults, mapped = list[str](), list[str](), list(clips)
    for label_map in label_maps:
        try:
            mapped, account = map_labels(mapped, label_map)
            notes.append(account)
        except LabelError as fault:
            faults.append(str(fault))
    if faults:
        raise LabelError(first_of(faults, between="; "))
    return mapped, notes


def _labels_in(clips: Iterable[Clip]) -> set[str]:
    return {name for clip in clips for name in (clip.emotion, *clip.votes) if name is not None}


def _account(label_map: LabelMap, clips: Counter[str], votes: Counter[str]) -> str:
    changed = [
        f"{label} -> {target or 'no emotion'} ({counted(clips[label], 'clip')}, votes in {votes[label]:,})"
        for label, target in label_map.changes.items()
    ]
    kept = [f"{label} {clips[label]:,}" for label in sorted({*clips, *votes} - set(label_map.changes))]
    return f"map {label_map.name}: {'; '.join(changed)}; kept: {', '.join(kept) or 'nothing'}"
