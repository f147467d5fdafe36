"""Refuses a run whose dev or test clips were trained on, by it or by a parent, unless its recipe allows it.

With `fit_on: heldout` the same holds of the clips that a merge is fitted on and an expert's fine-tuning.

Clips are found again by speaker, id and audio. Sentences that training and test share, and clips that two
stages share, are counted, not refused; what cannot be verified is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from voxstrata.config.leaks import FIT, MATCHES, SELECTION, STAGES
from voxstrata.config.recipe import Recipe
from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError
from voxstrata.experiments.leaks.report import Leak, LeakReport, Overlap
from voxstrata.experiments.leaks.training_clips import (
    ClipTrace,
    TrainingClips,
    Use,
    has_pseudo_label,
    training_clips_of,
)
from voxstrata.experiments.setup import Setup
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import read_run_recipe
from voxstrata.runs import RunFolder, write_json

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


def guard(setup: Setup, run: str, planned: Mapping[str, TrainingClips] | None = None) -> Guarded:
    """Compares all that a run is trained on with its dev and test clips; decides nothing.

    Args:
        setup: of the run; only clips that its batches really use count.
        run: name of its folder.
        planned: what parents that are not trained yet will have heard.

    Raises:
        VoxstrataError: if a parent's list cannot be read.
    """
    allowed = setup.recipe.allow_leaks
    own = Use(setup.method.stage, run)
    fit, guessed = _trained(setup)
    trained = _own_list(own, fit, guessed)

    def heard(source: str, role: str) -> TrainingClips:
        known = (planned or {}).get(source)
        return training_clips_of(source, role) if known is None else known

    parents = [(source, heard(source, role)) for role, source in setup.facts.built_on]
    for _, clips in parents:
        trained = trained.with_parent(clips)
    tested, selecting = _tested(setup)
    report = compare(trained, tested, allowed)
    if setup.facts.fitted_on_heldout:
        report = report.with_leaks(compare(_fine_tuned(parents), {FIT: fit}, allowed))
    if selecting and _chooses_by_dev(setup.recipe):
        # What chose the weights is no training of them, but a run that builds on this one should know of it.
        trained = trained.with_parent(TrainingClips({Use(SELECTION, run): selecting}))
    return Guarded(trained, report)


def _trained(setup: Setup) -> tuple[frozenset[ClipTrace], frozenset[ClipTrace]]:
    """The training clips, and those of them whose emotion a model gave."""
    traces, guessed = _traces(setup, "train", _ids(setup.sources.train))
    return frozenset(traces.values()), frozenset(traces[name] for name in guessed)


def _tested(setup: Setup) -> tuple[dict[str, list[ClipTrace]], frozenset[ClipTrace]]:
    """The clips of each split that the run is tested on, and those whose loss may choose its weights."""
    sources = setup.sources
    selecting = [] if sources.dev is None else _ids(sources.dev)
    names = {"dev": selecting, **{split: _ids(source) for split, source in sources.evaluated.items()}}
    # Dev clips whose loss is taken and those that are answered are not always the same.
    wanted = {split: [*used, *(selecting if split == "dev" else ())] for split, used in names.items()}
    traces = {split: _traces(setup, split, used)[0] for split, used in wanted.items()}
    tested = {split: [traces[split][name] for name in used] for split, used in names.items() if used}
    return tested, frozenset(traces["dev"][name] for name in selecting)


def _ids(source: Any) -> list[str]:
    """The ids of a source's clips; of several tasks, a clip comes as often as tasks use it."""
    return [name for ids in source.plan(0) for name in ids]


def _traces(setup: Setup, split: str, used: Iterable[str]) -> tuple[dict[str, ClipTrace], set[str]]:
    """Id -> trace of the clips of a split that are used, in one pass; and the ids of guessed labels.

    No clip is kept: hundreds of thousands of them take gigabytes.
    """
    names = {name: name for name in used}
    traces: dict[str, ClipTrace] = {}
    guessed: set[str] = set()
    for cut in setup.clips(split) if names else ():
        if (name := names.get(cut.id)) is not None:
            traces[name] = ClipTrace.of(cut, name)
            (guessed.add if has_pseudo_label(cut) else guessed.discard)(name)
    return traces, guessed


def _own_list(own: Use, fit: frozenset[ClipTrace], guessed: frozenset[ClipTrace]) -> TrainingClips:
    if not guessed:
        return TrainingClips({own: fit})
    return TrainingClips(
        {own: fit, Use("pseudo-labels", own.run): guessed},
        (f"{len(guessed)} training clips have labels of a model; what that model was trained on is unknown",),
    )


def _fine_tuned(parents: Iterable[tuple[str, TrainingClips]]) -> TrainingClips:
    """What base and experts were fine-tuned on, but for runs that learned words alone, and so no emotion."""
    heard = TrainingClips()
    for source, clips in parents:
        words_alone = _transcribing_runs(source)
        uses = {
            use: found
            for use, found in clips.uses.items()
            if use.stage == "fine-tuning" and use.run not in words_alone
        }
        heard = heard.with_parent(TrainingClips(uses, clips.unknown))
    return heard


def _transcribing_runs(source: str) -> frozenset[str]:
    """Names of the runs, of a source and all that it builds on, that learned words alone.

    A run whose recipe is not there is not among them: what it learned is not known.
    """
    found: dict[str, set[bool]] = {}
    for name, words_alone in _lineage(Path(source), set()):
        found.setdefault(name, set()).add(words_alone)
    return frozenset(name for name, answers in found.items() if answers == {True})


def _lineage(source: Path, seen: set[Path]) -> Iterator[tuple[str, bool]]:
    """Name of each run on the way to a source, and whether it learned words alone."""
    run = next((place for place in (source, *source.parents) if RunFolder(place).recipe.is_file()), None)
    if run is None or run.resolve() in seen:
        return
    seen.add(run.resolve())
    try:
        recipe = read_run_recipe(RunFolder(run))
        facts = method_of(recipe).facts(recipe)
    except RecipeError:
        facts = None
    yield run.resolve().name, facts is not None and facts.learns == {"transcript"}
    # What a run built on, as its provenance tells, relative to it, or its recipe.
    written = RunFolder(run).provenance
    about = read_json_object(written) if written.is_file() else {}
    parents = [about.get("base"), *(about.get("parents") or {}).values()]
    parents += [] if facts is None else [parent for _, parent in facts.built_on]
    for parent in dict.fromkeys(parent for parent in parents if isinstance(parent, str)):
        yield from _lineage(run / parent, seen)
        yield from _lineage(Path(parent), seen)


def _chooses_by_dev(recipe: Recipe) -> bool:
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
    # Clips that chose a parent's weights are no training clips; that they are tested on is reported too.
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
