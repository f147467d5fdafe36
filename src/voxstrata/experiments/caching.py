"""What a run need not compute twice: a frozen encoder's states, or a front end that no vector changes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxstrata.batches.processes import Processes
from voxstrata.batches.source import BatchSource
from voxstrata.batches.task_schedule import Stream
from voxstrata.errors import CheckpointError, counted
from voxstrata.methods.adaltm.lean.front_cache import FrontCache, front_bytes
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.building import planned_steps
from voxstrata.methods.cached_states import CachedStates, FrozenLayers, cached_states, gigabytes
from voxstrata.methods.encoder_models import ClipModel
from voxstrata.methods.method import Notify, TrainedMethod
from voxstrata.methods.registry import method_of
from voxstrata.methods.sources import Sources
from voxstrata.methods.task_sources import AnySources, TaskSources
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
        model: whose front cache serves the training; None where there is none.
    """

    train: Batches
    dev: Batches | None
    evaluated: Mapping[str, Batches]
    model: ClipModel | None = None

    def release(self) -> None:
        """Ends the use of a front cache: clips that were not counted may come."""
        if self.model is not None:
            self.model.front_cache = None


def cache_folder(run: RunFolder) -> Path:
    """Where a run keeps what it need not compute twice, until it is complete."""
    return run.path / "cache"


def keep(
    recipe: Any, system: System, sources: AnySources, run: RunFolder, notify: Notify, processes: Processes
) -> RunBatches:
    """Keeps what the recipe allows of what is the same in every epoch, and says what that is, or why not.

    Args:
        recipe: its `cache_gb` is the room.
        system: moved to the device that training uses; a model that learns a merge gets a front cache.
        sources: of the recipe.
        run: the folder; its lock is held.
        notify: receives lines for the user.
        processes: that train together. The first one decides, and runs a frozen encoder while the others
            wait; a clip's front end is run by the process that the clip first falls to.
    """
    batches = RunBatches(sources.train, sources.dev, sources.evaluated)
    method = method_of(recipe)
    assert isinstance(method, TrainedMethod)
    if not getattr(recipe, "cache_gb", 0.0) or recipe.training.epochs == 0:
        return batches
    system.to(processes.device)
    kept, folder = method.kept(recipe, system), cache_folder(run)
    if kept is None:
        return batches
    if isinstance(sources, TaskSources):
        assert isinstance(kept, FrozenLayers)
        return _with_task_states(recipe, kept, sources, folder, notify, processes)
    repeated = planned_steps(recipe, sources) * recipe.training.accumulate > batches.train.batches_per_epoch()
    if not repeated:
        notify("train: no clip is used twice, nothing is kept")
    if isinstance(kept, FrozenLayers):
        return _with_states(recipe, kept, sources, folder, notify, processes, train=repeated)
    if repeated:
        _keep_fronts(recipe, kept, sources, folder, notify, processes)
        return replace(batches, model=kept)
    return batches


def _with_states(
    recipe: Any,
    frozen: FrozenLayers,
    sources: Sources,
    folder: Path,
    notify: Notify,
    processes: Processes,
    *,
    train: bool,
) -> RunBatches:
    store = _Store(recipe, frozen, folder, notify, processes)
    batches = store.known("train", sources.train) if train else sources.train
    dev = None if sources.dev is None else store.known("dev", sources.dev)
    evaluated: dict[str, Batches] = dict(sources.evaluated)
    # Predictions are made in float32. Test clips are seen once, so that nothing of them need be kept.
    if isinstance(dev, CachedStates) and "dev" in evaluated and not store.bf16:
        evaluated["dev"] = store.known("dev", sources.evaluated["dev"])
    return RunBatches(batches, dev, evaluated)


def _with_task_states(
    recipe: Any,
    frozen: FrozenLayers,
    sources: TaskSources,
    folder: Path,
    notify: Notify,
    processes: Processes,
) -> RunBatches:
    """Known states of every task's clips, where the encoder is not trained."""
    store = _Store(recipe, frozen, folder, notify, processes)
    steps = planned_steps(recipe, sources)

    def streams(split: str, sources: Mapping[str, BatchSource]) -> dict[str, Stream]:
        return {name: store.known(f"{split}, {name}", source) for name, source in sources.items()}

    repeated = {
        name: source
        for name, source in sources.train.sources.items()
        if sources.train.schedule.count(name, steps) * recipe.training.accumulate > source.batches_per_epoch()
    }
    train = sources.train.read_from(streams("train", repeated))
    dev = sources.dev and sources.dev.read_from(streams("dev", sources.dev.sources))
    return RunBatches(train, dev, sources.evaluated)


class _Store:
    """States that are kept in a folder, as long as there is room."""

    def __init__(
        self, recipe: Any, frozen: FrozenLayers, folder: Path, notify: Notify, processes: Processes
    ) -> None:
        self.frozen, self.folder, self.notify, self.processes = frozen, folder, notify, processes
        self.bf16 = recipe.training.precision == "bf16"
        self._left_bytes = _budget_bytes(recipe)

    def known(self, what: str, source: BatchSource) -> BatchSource | CachedStates:
        """The source's batches with known states; the source where its clips change or there is no room."""
        if source.variation is not None:
            self.notify(f"{what}: {source.variation}, nothing is kept; the encoder runs in every epoch")
            return source
        states: CachedStates | None = None
        if self.processes.leads:
            try:
                states = cached_states(
                    self.frozen,
                    source,
                    self.folder,
                    budget_bytes=self._left_bytes,
                    bf16=self.bf16,
                    announce=lambda line: self.notify(f"{what}: {line}"),
                )
            except CheckpointError as fault:
                self.notify(f"{what}: {fault}; the encoder runs in every epoch")
        path = self.processes.from_leader(None if states is None else states.path)
        if path is None:
            return source
        self._left_bytes -= path.stat().st_size
        encoder = self.frozen.encoder
        return states or CachedStates(source, path, layers=encoder.num_layers, size=encoder.hidden_size)


def _keep_fronts(
    recipe: Any, model: ClipModel, sources: Sources, folder: Path, notify: Notify, processes: Processes
) -> None:
    merged = model.encoder
    assert isinstance(merged, MergedBackbone)
    fixed = merged.fixed_layers
    if fixed is None:
        notify("the vectors change the convolutional front end, nothing is kept")
        return
    if sources.train.variation is not None:
        notify(f"train: {sources.train.variation}, nothing is kept")
        return
    used = [sources.train] if sources.dev is None else [sources.train, sources.dev]
    counts = [count for source in used for ids in source.plan(0) for count in source.sample_counts(ids)]
    for layers in sorted({fixed, 0}, reverse=True):
        what = f"the encoder up to layer {layers}" if layers else "the front end"
        refused: CheckpointError | None = None
        try:
            cache = _front_cache(recipe, merged, folder, counts, layers)
        except CheckpointError as fault:
            refused = fault
        if not processes.any(refused is not None):
            needed = gigabytes(front_bytes(merged, counts, layers))
            notify(f"train and dev: {what} runs once over {counted(len(counts), 'clip')}; {needed} are kept")
            model.front_cache = cache
            return
        notify(f"train and dev: {refused or 'another process has no room'}; {what} runs in every epoch")


def _front_cache(
    recipe: Any, merged: MergedBackbone, folder: Path, counts: list[int], layers: int
) -> FrontCache:
    cache = FrontCache(merged, folder, budget_bytes=_budget_bytes(recipe), layers=layers, lengths=counts)
    free = shutil.disk_usage(folder.parent).free
    if (needed := front_bytes(merged, counts, layers)) - cache.used_bytes > free:
        raise CheckpointError(
            f"the front of these clips takes {gigabytes(needed)}, {gigabytes(free)} are free"
        )
    return cache


def _budget_bytes(recipe: Any) -> int:
    cache_gb: float = recipe.cache_gb
    return round(cache_gb * 1e9)
