"""What can be known of runs before they start: from headers, prepared corpora and recipes alone.

Faults are collected, all of them; notes tell what headers cannot.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voxstrata.backbone.headers import EncoderHeaders
from voxstrata.config.recipe import Recipe
from voxstrata.errors import VoxstrataError
from voxstrata.experiments.dry_run.corpus_checks import CorpusCheck
from voxstrata.experiments.dry_run.costs import EncoderSizes
from voxstrata.experiments.dry_run.estimate import (
    ASSUMED_CLIP_S,
    Assumptions,
    Costs,
    Loads,
    estimate,
)
from voxstrata.experiments.dry_run.inspection import Inspection
from voxstrata.experiments.leaks.guard import guard
from voxstrata.experiments.leaks.training_clips import TrainingClips
from voxstrata.experiments.plan_checks import plan_findings, require_run
from voxstrata.experiments.setup import Setup
from voxstrata.methods.cuts import corpora_in
from voxstrata.methods.frames import ClipNeeds, require_frames, told_left_out, too_many_words
from voxstrata.methods.method import Facts
from voxstrata.methods.registry import method_of
from voxstrata.methods.task_sources import AnySources, TaskSources

UNPREPARED = f"clips of a corpus that is not prepared are of {ASSUMED_CLIP_S:g} s"
NOT_ESTIMATED = "costs are not estimated for this method"
NOT_YET = "costs of several tasks are estimated once their corpora are prepared"
PAPERS_COUNTS = "of a corpus that is neither prepared nor counted the paper's counts are taken"


@dataclass(frozen=True)
class RunCheck:
    """A run that was not started.

    Args:
        name: of the run.
        clips: split -> clips that the recipe uses, or TASK/SPLIT -> clips where it has several tasks; empty
            where its corpora cannot be read.
        costs: None where they are not known: faults, or a system without an estimate.
        faults: what stands in the way.
        notes: what the headers cannot tell.
    """

    name: str
    clips: Mapping[str, int]
    costs: Costs | None
    faults: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DryRun:
    """All that was found.

    Args:
        corpora: of all runs, once each.
        encoders: lines about bases and experts, once each.
        runs: in the order in which they would run.
        faults: all of them, once each.
        assumptions: behind the costs.
        disk_bytes: what all finished runs keep, and the most that one of them needs beside.
        free_bytes: of the disk that the runs would lie on.
    """

    corpora: tuple[CorpusCheck, ...]
    encoders: tuple[str, ...]
    runs: tuple[RunCheck, ...]
    faults: tuple[str, ...]
    assumptions: tuple[str, ...]
    disk_bytes: float
    free_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Plan:
    """All runs, the folders in which those that are not trained yet will lie, and corpora still to come."""

    runs: Mapping[str, Recipe]
    folders: Mapping[str, str]
    unprepared: Mapping[str, Mapping[str, int]]

    def parent(self, place: str) -> Recipe | None:
        """The recipe of a run that is still to come."""
        return self.runs.get(self.folders.get(place, ""))

    def encoder(self, place: str) -> str:
        """The encoder whose sizes a model will have: its own, or that of what it will be trained from."""
        while (parent := self.parent(place)) is not None and (base := _base_of(parent)) is not None:
            place = base
        return place


class _Findings:
    """Faults and notes of one run."""

    def __init__(self) -> None:
        self.faults: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Takes up a fault; what comes after it inside is passed over."""
        try:
            yield
        except VoxstrataError as fault:
            self.faults[str(fault)] = None


def dry_run(
    runs: Mapping[str, Recipe],
    out: Path,
    *,
    folders: Mapping[str, str] | None = None,
    unprepared: Mapping[str, Mapping[str, int]] | None = None,
    releases: Mapping[str, CorpusCheck] | None = None,
    faults: Iterable[str] = (),
    assumed: Assumptions | None = None,
) -> DryRun:
    """Checks runs that would be started.

    Args:
        runs: name -> recipe, parents before children.
        out: folder for runs.
        folders: folder of a run that is not trained yet -> its name, for recipes that build on it.
        unprepared: folder of a corpus that is not there yet -> the clips that each split is taken to have;
            empty where nothing is known.
        releases: folder of such a corpus -> what was counted where it is to be prepared from.
        faults: found before, such as those corpora.
        assumed: behind the costs; None takes the defaults.
    """
    assumed = assumed or Assumptions()
    inspection, heard = Inspection(), dict[str, TrainingClips]()
    plan, releases = _Plan(runs, folders or {}, unprepared or {}), releases or {}
    checks = [_check(name, plan, heard, inspection, assumed) for name in runs]
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    costs = [check.costs for check in checks if check.costs is not None]
    beside = max((cost.disk_bytes - cost.kept_bytes for cost in costs), default=0.0)
    guessed = [clips for folder, clips in plan.unprepared.items() if clips and folder not in releases]
    needed, free = sum(cost.kept_bytes for cost in costs) + beside, shutil.disk_usage(place).free
    found = [*faults, *(fault for check in checks for fault in check.faults)]
    if needed > free:
        found.append(
            f"{needed / 1e9:,.1f} GB of disk are needed under {out} and {free / 1e9:,.1f} GB are free; "
            "free some, or choose another folder with --out"
        )
    return DryRun(
        corpora=(*releases.values(), *inspection.corpora.values()),
        encoders=tuple(inspection.encoders.values()),
        runs=tuple(checks),
        faults=tuple(dict.fromkeys(found)),
        assumptions=(
            *assumed.lines(),
            *([UNPREPARED] if plan.unprepared and costs else []),
            *([PAPERS_COUNTS] if guessed else []),
        ),
        disk_bytes=needed,
        free_bytes=free,
    )


def _check(
    name: str, plan: _Plan, heard: dict[str, TrainingClips], inspection: Inspection, assumed: Assumptions
) -> RunCheck:
    findings = _Findings()
    recipe: Any = plan.runs[name]
    method = method_of(recipe)
    facts = method.facts(recipe)
    work = facts.work
    if facts.tasks and work is None:
        findings.notes[NOT_ESTIMATED] = None
    clips: dict[str, int] = {}
    costs = None
    used = [use.path for use in corpora_in(recipe.data, facts.tasks)]
    for path in used:
        with findings.collected():
            if path not in plan.unprepared:
                inspection.corpus(path)
    encoder = _check_encoders(recipe, facts, plan, inspection, findings)
    if coming := [plan.unprepared[path] for path in used if path in plan.unprepared]:
        if work is not None and facts.tasks:
            findings.notes[NOT_YET] = None
        elif work is not None and encoder is not None and all(coming):
            sizes = EncoderSizes.of(encoder.config, encoder.parameters)
            totals = {split: sum(c.get(split, 0) for c in coming) for split in coming[0]}
            loads = Loads.assumed(sizes, totals, recipe.data.batch_size)
            costs = estimate(recipe, work, sizes, loads, assumed)
        return RunCheck(name, clips, costs, tuple(findings.faults), tuple(findings.notes))
    with findings.collected():
        sources = inspection.sources(recipe)
        setup = Setup(recipe, method, facts, sources)
        clips = _counts(sources)
        _note_absent_classes(sources, findings)
        planned = plan_findings(setup)
        findings.notes |= dict.fromkeys(planned.doubts)
        # A table's runs are what they are: another warm-up would be another run.
        stated = findings.notes if plan.folders else findings.faults
        stated |= dict.fromkeys(planned.faults)
        with findings.collected():
            _check_frames(facts, sources, encoder, clips, findings)
        if work is not None and encoder is not None:
            sizes = EncoderSizes.of(encoder.config, encoder.parameters)
            costs = estimate(recipe, work, sizes, inspection.loads(recipe, sources, sizes), assumed)
        guarded = guard(setup, name, heard)
        heard |= {folder: guarded.trained for folder, run in plan.folders.items() if run == name}
        findings.notes |= dict.fromkeys(guarded.report.lines())
        guarded.report.require_none()
    return RunCheck(name, clips, costs, tuple(findings.faults), tuple(findings.notes))


def _counts(sources: AnySources) -> dict[str, int]:
    if isinstance(sources, TaskSources):
        by_task = sources.clips().items()
        return {f"{task}/{split}": count for task, counts in by_task for split, count in counts.items()}
    batches = {"train": sources.train, "dev": sources.dev, **sources.evaluated}
    return {split: sum(map(len, source.plan(0))) for split, source in batches.items() if source is not None}


def _note_absent_classes(sources: AnySources, findings: _Findings) -> None:
    if isinstance(sources, TaskSources):
        findings.notes |= dict.fromkeys(sources.absent_classes())
        return
    if (line := sources.train.absent_classes()) is not None:
        findings.notes[line] = None


def _check_frames(
    facts: Facts,
    sources: AnySources,
    encoder: EncoderHeaders | None,
    clips: dict[str, int],
    findings: _Findings,
) -> None:
    """Holds the clips against the encoder's frames; those that training would leave out are not counted."""
    config = facts.new_encoder or (None if encoder is None else encoder.config)
    if config is None:
        return
    needs = ClipNeeds.of([config], words=facts.writes_ctc)
    require_frames(sources, needs)
    for split, ids in too_many_words(sources, needs).items():
        findings.notes[told_left_out(split, ids)] = None
        if split == "train":
            clips[split] -= len(ids)


def _check_encoders(
    recipe: Any, facts: Facts, plan: _Plan, inspection: Inspection, findings: _Findings
) -> EncoderHeaders | None:
    """The base of a recipe, once its experts were held against it; None without one that can be read."""
    base: EncoderHeaders | None = None
    for name in facts.encoders:
        with findings.collected():
            base = _headers(name, recipe.architecture, plan, inspection)
    # Answers that a baseline without an encoder reads are looked at when it starts.
    for parent_model in facts.parents if facts.encoders else ():
        role, name = parent_model.name, parent_model.source
        if name in facts.encoders:
            continue
        parent = plan.parent(name)
        if parent is not None:
            _note_base(f"{role}, still to be trained,", _base_of(parent), recipe.base, findings)
            continue
        with findings.collected():
            require_run(name)
            if base is None:
                inspection.checkpoint(name)
            else:
                stated = inspection.expert(name, base, recipe.normalize)
                _note_base(f"{role} {name}", stated, recipe.base, findings)
    return base


def _base_of(recipe: Recipe) -> str | None:
    return method_of(recipe).facts(recipe).base


def _headers(name: str, architecture: str | None, plan: _Plan, inspection: Inspection) -> EncoderHeaders:
    """The encoder that a base or an expert will have."""
    place = plan.encoder(name)
    parent = plan.parent(place)
    config = None if parent is None else method_of(parent).facts(parent).new_encoder
    if config is not None:
        return inspection.coming(place, config)
    require_run(place)
    return inspection.base(place, architecture)


def _note_base(expert: str, stated: str | None, base: str, findings: _Findings) -> None:
    """Says what headers cannot: whether an expert's weights come from the base."""
    later = "the weights are compared when training starts"
    if stated is None:
        findings.notes[f"{expert} does not name its base; {later}"] = None
    elif stated != base:
        findings.notes[f"{expert} says it comes from {stated}, the base here is {base}; {later}"] = None
