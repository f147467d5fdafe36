"""One recipe, from start to report, into one run folder; started again, it goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from voxstrata.batches.processes import Processes
from voxstrata.config.recipe import Recipe
from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError, counted
from voxstrata.evaluation.calibration import about_temperature, tempered
from voxstrata.evaluation.score import score
from voxstrata.experiments.caching import RunBatches, cache_folder, keep
from voxstrata.experiments.calibrating import calibrate
from voxstrata.experiments.leaks.guard import Guarded, guard
from voxstrata.experiments.plan_checks import check_plan, require_run
from voxstrata.experiments.provenance import begin, now
from voxstrata.experiments.result_checks import result_warnings
from voxstrata.experiments.setup import Setup
from voxstrata.inference.path import answers as answers_of
from voxstrata.methods.method import MeasuredMethod, Notify, TrainedMethod
from voxstrata.predictions import Prediction, read_predictions, write_predictions
from voxstrata.recipes.reading import dump, read_run_recipe
from voxstrata.runs import RunFolder, atomic_write, write_json
from voxstrata.system import System
from voxstrata.training.loop import fit
from voxstrata.training.progress import Progress
from voxstrata.training.shares import Batches
from voxstrata.training.tracking import require_tracker, tracked

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
        setup = _checked(recipe, notify, keyed=keyed)
        guarded = _guarded(setup, run, notify)
        method = setup.method
        if isinstance(method, MeasuredMethod):
            if processes.leads:
                _measure(method, setup, guarded, run, notify)
            return run
        assert isinstance(method, TrainedMethod)
        for _, source in setup.facts.built_on:
            require_run(source)
        system = method.build(recipe, setup.sources, notify)
        if processes.leads:
            begin(setup, run)
            guarded.write(run)
        del guarded  # It holds every clip that was trained on.
        batches = keep(setup, system, run, notify, processes)
        _fit(system, batches, run, recipe, progress, processes, notify)
        # What is to be known of the answers of a table's run stands in its report and beside other rows.
        describe: Notify = (lambda _: None) if keyed else notify
        answers, temperature = _answered(setup, system, batches.evaluated, processes, describe)
        if processes.leads:
            method.save(system, run.model)
            doubts = None if keyed else partial(result_warnings, setup, notify=notify)
            _write_scored(answers, run, doubts, temperature)
            _finish(run)
    return run


def _fit(
    system: System,
    batches: RunBatches,
    run: RunFolder,
    recipe: Any,
    progress: Callable[[Progress], None] | None,
    processes: Processes,
    notify: Notify,
) -> None:
    """Trains, and lets the recipe's tracker look on in the process that leads."""
    training, values = recipe.training, recipe.model_dump(mode="json")
    with tracked(training.tracker if processes.leads else None, run, values, notify) as track:
        fit(
            system,
            batches.train,
            batches.dev,
            run,
            training,
            progress,
            processes,
            seed=recipe.seed,
            track=track,
        )


def _answered(
    setup: Setup,
    system: System,
    evaluated: Mapping[str, Batches],
    processes: Processes,
    notify: Notify,
) -> tuple[dict[str, list[Prediction]], float | None]:
    """The answers of each split, and the temperature in them, which the system's model has from now on."""
    found = {name: answers_of(system, source, processes) for name, source in evaluated.items()}
    temperature = calibrate(setup.recipe, system, setup.sources, found.get(DEV, ()), notify)
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
    method: MeasuredMethod[Any], setup: Setup, guarded: Guarded, run: RunFolder, notify: Notify
) -> None:
    """A run without training."""
    answers = method.answers(setup.recipe, setup.sources, notify)
    begin(setup, run)
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
        return read_run_recipe(run) == recipe
    except RecipeError:
        return False


def _guarded(setup: Setup, run: RunFolder, notify: Notify) -> Guarded:
    guarded = guard(setup, run.path.resolve().name)
    guarded.report.require_none()
    for line in guarded.report.lines():
        notify(line)
    return guarded


def _checked(recipe: Recipe, notify: Notify, *, keyed: bool) -> Setup:
    """The setup of a recipe, once its plan can work; reports what is left out of its batches."""
    require_tracker(getattr(getattr(recipe, "training", None), "tracker", None))
    setup = Setup.of(recipe)
    sources = setup.sources
    for split, source in {"train": sources.train, **sources.evaluated}.items():
        for reason, count in source.left_out.items():
            notify(f"{split}: {counted(count, 'clip')} left out: {reason}")
    # A table's recipe is trained all the same: it is what the table is about.
    check_plan(setup, notify, refuse=not keyed)
    return setup


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
