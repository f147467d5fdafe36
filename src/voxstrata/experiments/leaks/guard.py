"""Refuses a run whose dev or test clips were trained on, by it or by a parent, unless its recipe allows it.

With `fit_on: heldout` the same holds of the clips that a merge is fitted on and an expert's fine-tuning.

Clips are found again by speaker, id and audio. Sentences that training and test share, and clips that two
stages share, are counted, not refused; what cannot be verified is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from lhotse.cut import Cut

from voxstrata.experiments.cuts import cuts_of
from voxstrata.experiments.leaks.report import Leak, LeakReport, Overlap
from voxstrata.experiments.leaks.training_clips import (
    ClipTrace,
    TrainingClips,
    Use,
    has_pseudo_label,
    training_clips_of,
)
from voxstrata.experiments.parents import base_of, experts_of, transcribes_only
from voxstrata.experiments.sources import AnySources
from voxstrata.recipes.leaks import FIT, MATCHES, SPLITS, STAGES
from voxstrata.recipes.schema.any_recipe import AnyRecipe
from voxstrata.recipes.schema.encoders import AdaLTMRecipe, LateFusionRecipe
from voxstrata.runs import RunFolder, write_json

SELECTION = "selection"
#: A recipe's `system` -> what its own training clips are used for; all others fine-tune.
_STAGES = {"pretraining": "pretraining", "adaltm": "lambda-fit", "late-fusion": "lambda-fit"}
_EXAMPLES = 3


@dataclass(frozen=True)
class Guarded:
    """The guard's answer for a run.

    Args:
        trained: what the run and its parents are trained on.
        report: what meets its dev and test clips.
    """

    trained: TrainingClips
    report: LeakReport

    def write(self, run: RunFolder) -> None:
        """Writes `training_clips.jsonl.gz` and `leaks.json`."""
        self.trained.write(run.training_clips)
        write_json(run.leaks, self.report.as_dict())


def guard(
    recipe: AnyRecipe,
    sources: AnySources,
    run: str,
    planned: Mapping[str, TrainingClips] | None = None,
) -> Guarded:
    """Compares all that a run is trained on with its dev and test clips; decides nothing.

    Args:
        recipe: of the run.
        sources: its batches; only clips that are really used count.
        run: name of its folder.
        planned: what parents that are not trained yet will have heard.

    Raises:
        VoxstrataError: if a parent's list cannot be read.
    """
    cuts = {name: cut for split in ("train", *SPLITS) for name, cut in cuts_of(recipe, split).items()}

    def used(source: Any) -> list[Cut]:
        return [cuts[name] for ids in source.plan(0) for name in ids]

    train = used(sources.train)
    dev = [] if sources.dev is None else used(sources.dev)
    stage = _STAGES.get(recipe.system, "fine-tuning")
    own = {Use(stage, run): frozenset(map(ClipTrace.of, train))}
    unknown: tuple[str, ...] = ()
    if guessed := frozenset(ClipTrace.of(cut) for cut in train if has_pseudo_label(cut)):
        own[Use("pseudo-labels", run)] = guessed
        unknown = (
            f"{len(guessed)} training clips have labels of a model; what it was trained on is not told",
        )
    trained = TrainingClips(own, unknown)
    base = base_of(recipe)
    for role, source in [*([("base", base)] if base is not None else []), *experts_of(recipe).items()]:
        heard = (planned or {}).get(source)
        trained = trained.with_parent(training_clips_of(source, role) if heard is None else heard)
    # What chose the weights is no training of them, but a run that builds on this one should know of it.
    listed = trained.with_parent(TrainingClips({Use(SELECTION, run): frozenset(map(ClipTrace.of, dev))}))
    tested = {"dev": dev, **{split: used(source) for split, source in sources.evaluated.items()}}
    traced = {split: [ClipTrace.of(cut) for cut in clips] for split, clips in tested.items() if clips}
    chosen = dev and _chooses_by_dev(recipe)
    report = compare(trained, traced, recipe.allow_leaks)
    if isinstance(recipe, AdaLTMRecipe | LateFusionRecipe) and recipe.fit_on == "heldout":
        heard = _fine_tuned(recipe, planned or {})
        report = report.with_leaks(compare(heard, {FIT: own[Use(stage, run)]}, recipe.allow_leaks))
    return Guarded(listed if chosen else trained, report)


def _fine_tuned(
    recipe: AdaLTMRecipe | LateFusionRecipe, planned: Mapping[str, TrainingClips]
) -> TrainingClips:
    """What the experts were fine-tuned on, but for those that only transcribe: they learned no emotion."""
    heard = TrainingClips()
    for role, source in experts_of(recipe).items():
        if not transcribes_only(source):
            clips = planned.get(source) or training_clips_of(source, role)
            uses = {use: found for use, found in clips.uses.items() if use.stage == "fine-tuning"}
            heard = heard.with_parent(TrainingClips(uses, clips.unknown))
    return heard


def _chooses_by_dev(recipe: AnyRecipe) -> bool:
    training = getattr(recipe, "training", None)
    return training is None or training.keep_best or training.patience is not None


def compare(
    trained: TrainingClips, tested: Mapping[str, Collection[ClipTrace]], allowed: Collection[str] = ()
) -> LeakReport:
    """Compares training clips with the clips of splits.

    Args:
        trained: use -> clips.
        tested: split -> clips.
        allowed: names of leaks.
    """
    uses = {use: clips for use, clips in sorted(trained.uses.items()) if clips}
    leaks = [
        leak
        for (use, clips), (split, others) in product(uses.items(), tested.items())
        for match in MATCHES
        if (leak := _leak(use, clips, split, others, match, allowed)) is not None
    ]
    sentences = [
        overlap
        for (use, clips), (split, others) in product(uses.items(), tested.items())
        if use.stage in STAGES and (overlap := _shared_sentences(use, clips, split, others)).shared
    ]
    stages = [
        _shared_recordings(_named(first), uses[first], _named(second), uses[second])
        for first, second in combinations(uses, 2)
        if first.run != second.run
    ]
    # Clips that chose a parent's weights are no training clips; that they are tested on is told all the same.
    stages += [
        _shared_recordings(_named(use), clips, "test", tested.get("test", ()))
        for use, clips in uses.items()
        if use.stage == SELECTION
    ]
    return LeakReport(
        checked={_named(use): len(clips) for use, clips in uses.items()},
        leaks=tuple(leaks),
        sentences=tuple(sentences),
        stages=tuple(overlap for overlap in stages if overlap.shared),
        unverified=(*trained.unknown, *_unknown_speakers(uses, tested)),
    )


def _key(clip: ClipTrace, match: str) -> str | None:
    return {"speaker": clip.speaker, "clip": clip.id, "audio": clip.audio or None}[match]


def _leak(
    use: Use,
    clips: Collection[ClipTrace],
    split: str,
    others: Collection[ClipTrace],
    match: str,
    allowed: Collection[str],
) -> Leak | None:
    heard = {key for clip in clips if (key := _key(clip, match)) is not None}
    met = [clip for clip in others if _key(clip, match) in heard]
    if not met or use.stage not in STAGES:
        return None
    name = f"{use.stage}/{split}/{match}"
    shown = sorted({str(clip.speaker if match == "speaker" else clip.id) for clip in met})
    found = len({_key(clip, match) for clip in met})
    return Leak(name, use.run, found, len(met), tuple(shown[:_EXAMPLES]), name in allowed)


def _shared_sentences(
    use: Use, clips: Collection[ClipTrace], split: str, others: Collection[ClipTrace]
) -> Overlap:
    said = {clip.sentence for clip in clips} - {None}
    spoken = [clip.sentence for clip in others if clip.sentence is not None]
    return Overlap(_named(use), split, sum(sentence in said for sentence in spoken), len(spoken))


def _shared_recordings(
    first: str, clips: Collection[ClipTrace], second: str, others: Collection[ClipTrace]
) -> Overlap:
    known = {clip.audio or clip.id for clip in clips}
    return Overlap(first, second, sum((clip.audio or clip.id) in known for clip in others), len(others))


def _unknown_speakers(
    uses: Mapping[Use, Collection[ClipTrace]], tested: Mapping[str, Collection[ClipTrace]]
) -> Iterable[str]:
    sides = {**{_named(use): clips for use, clips in uses.items()}, **tested}
    for name, clips in sides.items():
        if nameless := sum(clip.speaker is None for clip in clips):
            yield f"{name}: the speakers of {nameless} of {len(clips)} clips are not known"


def _named(use: Use) -> str:
    return f"{use.stage} ({use.run})"
