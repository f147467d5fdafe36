"""What can be said of a plan before the work: what cannot work, and what is doubtful."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from voxstrata.backbone.locate import is_missing_run
from voxstrata.batches.source import BatchSource
from voxstrata.config.training import Training
from voxstrata.errors import CheckpointError, RecipeError, counted
from voxstrata.experiments.setup import Setup
from voxstrata.methods.method import TrainedMethod
from voxstrata.methods.task_sources import AnySources, TaskSources
from voxstrata.recipes.reading import packaged

#: Steps below which nothing much is learned.
FEW_STEPS = 20


@dataclass(frozen=True)
class PlanFindings:
    """What a plan was found to be.

    Args:
        faults: why it cannot work, a line each.
        doubts: why it may not, a line each.
    """

    faults: tuple[str, ...]
    doubts: tuple[str, ...]


def check_plan(setup: Setup, notify: Callable[[str], None], *, refuse: bool = True) -> None:
    """Says what is doubtful of a plan, and refuses one that cannot work.

    Args:
        setup: of the run.
        notify: receives a line for each doubt.
        refuse: false: what cannot work is said like a doubt, for runs whose recipe must stay what it is.

    Raises:
        RecipeError: naming all that cannot work.
    """
    found = plan_findings(setup)
    for line in found.doubts if refuse else (*found.faults, *found.doubts):
        notify(f"warning: {line}")
    if refuse and found.faults:
        raise RecipeError("this plan cannot work: " + "; ".join(found.faults))


def plan_findings(setup: Setup) -> PlanFindings:
    """Holds a run's recipe against the clips that it would train on."""
    sources = setup.sources
    trained = _task_sources(sources, "train")
    faults, doubts = [*_too_few_clips(trained)], [*_unheard_in_dev(sources)]
    if isinstance(setup.method, TrainedMethod):
        options: Training = setup.recipe.training
        total = setup.steps
        if options.epochs != 0:
            faults += _too_long_starts(setup.facts.resting_steps, options, total)
            doubts += _too_few_steps(total, trained)
    return PlanFindings(tuple(faults), tuple(doubts))


def require_run(name: str) -> None:
    """Refuses a run that is not there yet, with the command that trains it, where a packaged recipe does.

    Args:
        name: of a base, expert or task vector.

    Raises:
        CheckpointError: with that command.
    """
    recipe = next((known for known in packaged() if PurePath(known).name == PurePath(name).name), None)
    if recipe is not None and is_missing_run(name):
        raise CheckpointError(
            f"{name} is not there yet; train it first: voxstrata train {recipe} --out {shlex.quote(name)}"
        )


def _task_sources(sources: AnySources, split: Literal["train", "dev"]) -> dict[str, BatchSource]:
    """Where a split's clips come from, by what lines about them begin with: nothing, or of tasks "TASK: "."""
    if isinstance(sources, TaskSources):
        batches = sources.train if split == "train" else sources.dev
        return {} if batches is None else {f"{name}: ": source for name, source in batches.sources.items()}
    source = sources.train if split == "train" else sources.dev
    return {} if source is None else {"": source}


def _too_few_clips(trained: Mapping[str, BatchSource]) -> Iterator[str]:
    for name, source in trained.items():
        labels = source.options.labels
        if labels is not None and len(source) < len(labels):
            yield (
                f"{name}{counted(len(source), 'train clip')} for {len(labels)} classes "
                f"({', '.join(labels)}); each class needs several: give more clips, or fewer classes with "
                "data.labels"
            )


def _unheard_in_dev(sources: AnySources) -> Iterator[str]:
    for name, source in _task_sources(sources, "dev").items():
        if absent := source.classes_without_clips():
            named = " or ".join(absent)
            yield f"{name}no dev clip is {named}; the best weights are chosen without such clips"


def _too_long_starts(waiting: int, options: Training, total: int) -> Iterator[str]:
    if options.warmup_steps >= total:
        yield (
            f"training.warmup_steps is {options.warmup_steps} and training has {total} steps, so the "
            "rates never "
            "reach what is asked for; give training.warmup_steps=0 training.warmup=0.1 (a tenth of the "
            "steps), or "
            "more epochs"
        )
    if waiting >= total:
        yield (
            f"rates.warm_head_steps is {waiting} and training has {total} steps, so the encoder never "
            "learns; "
            "give fewer of them, or more epochs"
        )


def _too_few_steps(total: int, trained: Mapping[str, BatchSource]) -> Iterator[str]:
    for name, source in trained.items():
        if source.options.batch_size > len(source):
            yield (
                f"{name}a batch may hold {source.options.batch_size} clips and there are {len(source)}: "
                "each epoch "
                "is one step; give a smaller data.batch_size"
            )
    if total < FEW_STEPS:
        yield (
            f"training has {total} step{'s' * (total > 1)} in all, which is hardly enough to learn "
            "anything; give "
            "more epochs, or a smaller data.batch_size"
        )
