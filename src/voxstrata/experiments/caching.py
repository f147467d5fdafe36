"""What a run need not compute twice, as long as its recipe allows disk space for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.batches.cached import CachedStates, KeptStates, NoRoom, cached_states
from voxstrata.batches.processes import Processes
from voxstrata.batches.source import BatchSource
from voxstrata.errors import CheckpointError
from voxstrata.experiments.setup import Setup
from voxstrata.methods.method import Notify, TrainedMethod
from voxstrata.methods.sources import Sources
from voxstrata.methods.task_sources import TaskSources
from voxstrata.runs import RunFolder
from voxstrata.system import System
from voxstrata.training.shares import Batches


@dataclass(frozen=True)
class RunBatches:
    """The batches of a run's sources, with known states where they are kept.

    Args:
        train: training batches.
        dev: for the validation loss.
        evaluated: split -> clips that predictions are written for.
    """

    train: Batches
    dev: Batches | None
    evaluated: Mapping[str, Batches]


def cache_folder(run: RunFolder) -> Path:
    """Where a run keeps what it need not compute twice, until it is complete."""
    return run.path / "cache"


def keep(setup: Setup, system: System, run: RunFolder, notify: Notify, processes: Processes) -> RunBatches:
    """Keeps what the recipe allows of what is the same in every epoch, and says what that is, or why not.

    Args:
        setup: of the run; its recipe's `cache_gb` is the space that it allows.
        system: moved to the device that training uses.
        run: the folder; its lock is held.
        notify: receives lines for the user.
        processes: that train together; each computes its share.

    Raises:
        CheckpointError: if what an earlier start kept is damaged, or a recording has changed since.
    """
    recipe = setup.recipe
    sources = setup.sources
    batches = RunBatches(sources.train, sources.dev, sources.evaluated)
    assert isinstance(setup.method, TrainedMethod)
    if not getattr(recipe, "cache_gb", 0.0) or recipe.training.epochs == 0:
        return batches
    system.to(processes.device)
    if processes.leads:
        _remove_older(cache_folder(run))
    try:
        kept = setup.method.kept(recipe, system)
    except CheckpointError as fault:
        notify(f"nothing is kept: {fault}")
        return batches
    if kept is None:
        return batches
    cache = _Cache(recipe, kept, cache_folder(run), notify, processes)
    steps = setup.steps
    if isinstance(sources, TaskSources):
        return cache.of_tasks(sources, steps)
    return cache.of_clips(sources, steps)


class _Cache:
    """What a run keeps, as long as there is room."""

    def __init__(
        self, recipe: Any, kept: KeptStates, folder: Path, notify: Notify, processes: Processes
    ) -> None:
        self._kept, self._folder, self._notify, self._processes = kept, folder, notify, processes
        self._accumulate: int = recipe.training.accumulate
        self._bf16 = recipe.training.precision == "bf16"
        self._left_bytes = round(recipe.cache_gb * 1e9)

    def of_clips(self, sources: Sources, steps: int) -> RunBatches:
        """Of training clips that are used more than once, and of those of the validation."""
        train: Batches = sources.train
        if steps * self._accumulate > train.batches_per_epoch():
            train = self._known("train", sources.train)
        else:
            self._notify("train: no clip is used twice, nothing is kept")
        dev = None if sources.dev is None else self._known("dev", sources.dev)
        evaluated: dict[str, Batches] = dict(sources.evaluated)
        # Predictions are made in float32. Test clips are seen once, so that nothing of them need be kept.
        if isinstance(dev, CachedStates) and "dev" in evaluated and not self._bf16:
            evaluated["dev"] = self._known("dev", sources.evaluated["dev"])
        return RunBatches(train, dev, evaluated)

    def of_tasks(self, sources: TaskSources, steps: int) -> RunBatches:
        """The same, task by task."""
        train = {
            name: self._known(f"train, {name}", source)
            for name, source in sources.train.sources.items()
            if sources.train.schedule.count(name, steps) * self._accumulate > source.batches_per_epoch()
        }
        if sources.dev is None:
            return RunBatches(sources.train.read_from(train), None, sources.evaluated)
        dev = {name: self._known(f"dev, {name}", source) for name, source in sources.dev.sources.items()}
        return RunBatches(sources.train.read_from(train), sources.dev.read_from(dev), sources.evaluated)

    def _known(self, what: str, source: BatchSource) -> BatchSource | CachedStates:
        """The source's batches with known states; the source where its clips change or there is no room."""
        if source.variation is not None:
            self._notify(
                f"{what}: {source.variation}, nothing is kept; {self._kept.name} runs in every epoch"
            )
            return source
        kept: KeptStates | None = self._kept
        while kept is not None:
            try:
                states = cached_states(
                    kept,
                    source,
                    self._folder,
                    budget_bytes=self._left_bytes,
                    bf16=self._bf16,
                    announce=lambda line: self._notify(f"{what}: {line}"),
                    processes=self._processes,
                )
            except NoRoom as fault:
                self._notify(f"{what}: {fault}; {kept.name} runs in every epoch")
                kept = kept.smaller()
            else:
                self._left_bytes -= states.size
                return states
        return source


def _remove_older(folder: Path) -> None:
    """Removes what versions before 0.2.0 kept in other formats."""
    for found in folder.glob("*") if folder.is_dir() else ():
        if found.is_dir() and not found.name.startswith("kept-"):
            shutil.rmtree(found, ignore_errors=True)
        elif not found.is_dir():
            found.unlink(missing_ok=True)
