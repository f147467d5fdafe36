"""One recipe, from start to report, into one run folder; started again, it goes on where it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.locate import locate
from voxstrata.batches.processes import Processes
from voxstrata.config.recipe import Recipe
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError, counted
from voxstrata.evaluation.calibration import about_temperature, tempered
from voxstrata.evaluation.score import score
from voxstrata.experiments.caching import cache_folder, keep
from voxstrata.experiments.calibrating import calibrate
from voxstrata.experiments.leaks.guard import Guarded, guard
from voxstrata.experiments.missing_runs import require_runs
from voxstrata.experiments.parents import base_of, experts_of
from voxstrata.experiments.plan_checks import check_plan
from voxstrata.experiments.provenance import now, provenance, require_unchanged
from voxstrata.experiments.result_checks import result_warnings
from voxstrata.inference.path import answers as answers_of
from voxstrata.methods.cuts import corpora_of
from voxstrata.methods.method import MeasuredMethod, Notify, TrainedMethod
from voxstrata.methods.registry import method_of
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction, read_predictions, write_predictions
from voxstrata.recipes.reading import dump, read_recipe
from voxstrata.runs import RunFolder, atomic_write, write_json
from voxstrata.system import System
from voxstrata.training.loop import fit
from voxstrata.training.progress import Progress
from voxstrata.training.shares import Batches

#: The split that a temperature is fitted on.
DEV = "dev"


def execute(
    recipe: Any,
    run: RunFolder,
    *,
    keyed: bool = False,
    patient: bool = False,
    notify: Notify = lambda message: None,
    progress: Callable[[Progress], None] | None = None,
) -> RunFolder:
    """Trains, predicts, scores and reports. A finished run is returned as it is.

    Processes that a launcher started share the work; the first one alone writes, and speaks to the user.

    Args:
        recipe: resolved.
        run: the folder; one that was interrupted is continued from its last checkpoint.
        keyed: the folder's name is a hash of the recipe's content, so that a recipe in it that spells
            paths differently is the same all the same.
        patient: where another process holds the folder, wait for it.
        notify: receives lines for the user.
        progress: receives the loop's progress.

    Raises:
        RecipeError: if the folder holds a run of another recipe, or one that was begun with other data or
            weights.
        LeakError: if what would be tested was trained on, and the recipe does not allow it.
        VoxstrataError: see `fit`.
    """
    processes = Processes.join()
    with run.lock(waiting=notify if patient else None) if processes.leads else nullcontext():
        if not keyed and processes.leads:
            _refuse_another(recipe, run)
        if _is_done(run, processes, notify):
            return run
        method = method_of(recipe)
        sources = _checked_sources(recipe, notify, keyed=keyed)
        guarded = _guarded(recipe, sources, run, notify)
        if isinstance(method, MeasuredMethod):
            if processes.leads:
                _measure(method, recipe, sources, guarded, run, notify)
            return run
        assert isinstance(method, TrainedMethod)
        require_runs(recipe)
        system = method.build(recipe, sources, notify)
        if processes.leads:
            _claim(recipe, run)
            guarded.write(run)
        del guarded  # It holds every clip that was trained on.
        batches = keep(recipe, system, sources, run, notify, processes)
        fit(system, batches.train, batches.dev, run, recipe.training, progress, processes, seed=recipe.seed)
        answers, temperature = _answered(recipe, system, sources, batches.evaluated, processes, notify)
        if processes.leads:
            method.save(system, run.model)
            # A table has rows of its own to hold its answers against.
            doubts = None if keyed else partial(result_warnings, recipe, sources, notify=notify)
            _write_scored(answers, run, doubts, temperature)
            _finish(run)
    return run


def _answered(
    recipe: Any,
    system: System,
    sources: AnySources,
    evaluated: Mapping[str, Batches],
    processes: Processes,
    notify: Notify,
) -> tuple[dict[str, list[Prediction]], float | None]:
    """The answers of each split, and the temperature in them, which the system's model has from now on."""
    found = {name: answers_of(system, source, processes) for name, source in evaluated.items()}
    temperature = calibrate(recipe, system, sources, found.get(DEV, ()), notify)
    if temperature is None:
        return found, None
    return {name: [tempered(row, temperature) for row in rows] for name, rows in found.items()}, temperature


def _is_done(run: RunFolder, processes: Processes, notify: Notify) -> bool:
    done: bool = processes.from_leader(run.is_complete)
    if done:
        notify(f"{run.path} is done already")
        if processes.leads:
            _clear(run)
    return done


def _measure(
    method: MeasuredMethod[Any],
    recipe: Recipe,
    sources: AnySources,
    guarded: Guarded,
    run: RunFolder,
    notify: Notify,
) -> None:
    """A run without training."""
    answers = method.answers(recipe, sources, notify)
    _claim(recipe, run)
    guarded.write(run)
    _write_scored(answers, run)
    _finish(run)


def _refuse_another(recipe: Recipe, run: RunFolder) -> None:
    if run.recipe.is_file() and not _is_of(recipe, run):
        begun = "" if run.is_complete or any(run.checkpoints.glob("step-*")) else ", or remove that one"
        raise RecipeError(
            f"{run.path} holds a run of another recipe; choose another folder with --out{begun}"
        )
    held = () if run.recipe.is_file() or not run.path.is_dir() else sorted(run.path.iterdir())
    if named := [path.name for path in held if not path.name.startswith(".")]:
        raise RecipeError(
            f"{run.path} holds {named[0]} and is no run; choose an empty or new folder with --out"
        )


def _is_of(recipe: Recipe, run: RunFolder) -> bool:
    """Whether the folder's recipe is this one; a key that its version did not know has its default."""
    if run.recipe.read_text(encoding="utf-8") == dump(recipe):
        return True
    try:
        return read_recipe(run.recipe) == recipe
    except RecipeError:
        return False


def _claim(recipe: Recipe, run: RunFolder) -> None:
    """Writes recipe and provenance into a folder, once all parts of the recipe were found to hold.

    A folder with a checkpoint keeps those of its first start, and must go on with the same data and weights.
    """
    fingerprints = {use.path: PreparedCorpus.load(Path(use.path)).fingerprint for use in corpora_of(recipe)}
    weights = _weights(recipe) if isinstance(method_of(recipe), TrainedMethod) else None
    if run.recipe.is_file() and any(run.checkpoints.glob("step-*")):
        require_unchanged(run, fingerprints, weights or {})
        return
    experts = experts_of(recipe)
    if (base := base_of(recipe)) is not None and RunFolder(Path(base)).recipe.is_file():
        experts = {"base": base, **experts}
    parents = {name: _from(run, source) for name, source in experts.items()}
    about = provenance(
        seed=recipe.seed,
        fingerprints=fingerprints,
        parents=parents,
        weights=weights,
        base=None if base is None else _from(run, base),
    )
    write_json(run.provenance, about)
    atomic_write(run.recipe, dump(recipe))


def _from(run: RunFolder, source: str) -> str:
    """A folder relative to the run, so that a moved folder of runs still finds it; names and hub ids stay."""
    return os.path.relpath(source, run.path) if Path(source).exists() else source


def _weights(recipe: Recipe) -> dict[str, str]:
    """Content hashes of what a training builds on; a file that serves twice is read once."""
    sources = {f"experts.{name}": source for name, source in experts_of(recipe).items()}
    if (base := base_of(recipe)) is not None:
        sources = {"base": base, **sources}
    hashes = {source: open_checkpoint(locate(source)).fingerprint() for source in set(sources.values())}
    return {name: hashes[source] for name, source in sources.items()}


def _guarded(recipe: Recipe, sources: AnySources, run: RunFolder, notify: Notify) -> Guarded:
    guarded = guard(recipe, sources, run.path.resolve().name)
    guarded.report.require_none()
    for line in guarded.report.lines():
        notify(line)
    return guarded


def _checked_sources(recipe: Any, notify: Notify, *, keyed: bool) -> AnySources:
    """The batches of a recipe, once its plan can work; says what is left out of them."""
    sources: AnySources = method_of(recipe).sources(recipe)
    for split, source in {"train": sources.train, **sources.evaluated}.items():
        for reason, count in source.left_out.items():
            notify(f"{split}: {counted(count, 'clip')} left out: {reason}")
    # A table's recipe is trained all the same: it is what the table is about.
    check_plan(recipe, sources, notify, refuse=not keyed)
    return sources


def _write_scored(
    answers: Mapping[str, Sequence[Prediction]],
    run: RunFolder,
    doubts: Callable[..., dict[str, list[str]]] | None = None,
    temperature: float | None = None,
) -> None:
    """Writes predictions and scores; with the scores, what is doubtful of them."""
    metrics: dict[str, Any] = {}
    for split, predictions in answers.items():
        write_predictions(run.predictions(split), predictions)
        rows = read_predictions(run.predictions(split))
        metrics[split] = score(rows).as_dict()
        if temperature is not None and "calibration" in metrics[split]:
            metrics[split]["calibration"] |= about_temperature(rows, temperature)
    for split, lines in (doubts(answers, metrics) if doubts else {}).items():
        metrics[split]["warnings"] = [*metrics[split].get("warnings", []), *lines]
    write_json(run.metrics, metrics)


def _finish(run: RunFolder) -> None:
    from voxstrata.reporting.page import write_report

    about = read_json_object(run.provenance)
    write_json(run.provenance, about | {"finished": now()})
    write_report(run)
    atomic_write(run.complete, now() + "\n")
    _clear(run)


def _clear(run: RunFolder) -> None:
    """Removes what a complete run has no use for: several times the size of the model."""
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    shutil.rmtree(cache_folder(run), ignore_errors=True)
