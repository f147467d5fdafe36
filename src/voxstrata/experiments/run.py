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
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError
from voxstrata.evaluation.score import score
from voxstrata.methods.build import Say, build_system, fit_options
from voxstrata.experiments.caching import cache_folder, keep, release
from voxstrata.methods.cuts import corpora_of
from voxstrata.experiments.leaks.guard import Guarded, guard
from voxstrata.experiments.parents import base_of, experts_of
from voxstrata.experiments.plan_checks import check_plan
from voxstrata.experiments.provenance import now, provenance, require_unchanged
from voxstrata.experiments.result_checks import result_warnings
from voxstrata.methods.sources import AnySources, Sources, build_sources
from voxstrata.experiments.yardsticks import yardstick_answers
from voxstrata.inference.tasks import answers as answers_of
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.predictions import Prediction, read_predictions, write_predictions
from voxstrata.recipes.reading import dump, read_recipe
from voxstrata.methods.any_recipe import AnyRecipe, TrainedRecipe
from voxstrata.methods.baselines.recipes import YardstickRecipe
from voxstrata.runs import RunFolder, atomic_write, write_json
from voxstrata.methods.adaltm.system import AdaLTM
from voxstrata.methods.baselines.finetune import ASRFinetune, SERFinetune
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.adaltm.joint import JointAdaLTM, JointModel
from voxstrata.methods.baselines.late_fusion import LateFusion
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.baselines.multitask import Multitask
from voxstrata.methods.pretraining.system import MaskedPrediction
from voxstrata.system import System
from voxstrata.training.loop import fit
from voxstrata.training.options import Progress


def execute(
    recipe: AnyRecipe,
    run: RunFolder,
    *,
    keyed: bool = False,
    patient: bool = False,
    say: Say = lambda message: None,
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
        say: receives lines for the user.
        progress: receives the loop's progress.

    Raises:
        RecipeError: if the folder holds a run of another recipe, or one that was begun with other data or
            weights.
        LeakError: if what would be tested was trained on, and the recipe does not allow it.
        VoxstrataError: see `fit`.
    """
    processes = Processes.join()
    with run.lock(waiting=say if patient else None) if processes.leads else nullcontext():
        if not keyed and processes.leads:
            _refuse_another(recipe, run)
        if processes.from_leader(run.is_complete):
            say(f"{run.path} is done already")
            if processes.leads:
                _clear(run)
            return run
        sources = build_sources(recipe)
        _say_left_out(sources, say)
        # A table's recipe is trained all the same: it is what the table is about.
        check_plan(recipe, sources, say, refuse=not keyed)
        if isinstance(recipe, YardstickRecipe):
            assert isinstance(sources, Sources)
            guarded = _guarded(recipe, sources, run, say)
            if processes.leads:
                _measure(recipe, sources, guarded, run, say)
            return run
        system = _built(recipe, sources, run, say, processes)
        batches = keep(recipe, system, sources, run, say, processes)
        fit(system, batches.train, batches.dev, run, fit_options(recipe), progress, processes)
        release(system)
        if processes.leads:
            save_trained(system, run)
        answers = {name: answers_of(system, source, processes) for name, source in batches.evaluated.items()}
        if processes.leads:
            # A table has rows of its own to hold its answers against.
            doubts = None if keyed else partial(result_warnings, recipe, sources, say=say)
            _write_scored(answers, run, doubts)
            _finish(run)
    return run


def _built(
    recipe: TrainedRecipe, sources: AnySources, run: RunFolder, say: Say, processes: Processes
) -> System:
    """The system, once nothing leaks; the training clips are listed in a file, and not kept meanwhile."""
    guarded = _guarded(recipe, sources, run, say)
    system = build_system(recipe, sources, say)
    if processes.leads:
        _claim(recipe, run)
        guarded.write(run)
    return system


def _measure(recipe: YardstickRecipe, sources: Sources, guarded: Guarded, run: RunFolder, say: Say) -> None:
    """A run without training."""
    answers = yardstick_answers(recipe, sources, say)
    _claim(recipe, run)
    guarded.write(run)
    _write_scored(answers, run)
    _finish(run)


def _refuse_another(recipe: AnyRecipe, run: RunFolder) -> None:
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


def _is_of(recipe: AnyRecipe, run: RunFolder) -> bool:
    """Whether the folder's recipe is this one; a key that its version did not know has its default."""
    if run.recipe.read_text(encoding="utf-8") == dump(recipe):
        return True
    try:
        return read_recipe(run.recipe) == recipe
    except RecipeError:
        return False


def _claim(recipe: AnyRecipe, run: RunFolder) -> None:
    """Writes recipe and provenance into a folder, once all parts of the recipe were found to hold.

    A folder with a checkpoint keeps those of its first start, and must go on with the same data and weights.
    """
    fingerprints = {use.path: PreparedCorpus.load(Path(use.path)).fingerprint for use in corpora_of(recipe)}
    weights = None if isinstance(recipe, YardstickRecipe) else _weights(recipe)
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


def _weights(recipe: TrainedRecipe) -> dict[str, str]:
    """Content hashes of what a training builds on; a file that serves twice is read once."""
    sources = {f"experts.{name}": source for name, source in experts_of(recipe).items()}
    if (base := base_of(recipe)) is not None:
        sources = {"base": base, **sources}
    hashes = {source: open_checkpoint(locate(source)).fingerprint() for source in set(sources.values())}
    return {name: hashes[source] for name, source in sources.items()}


def _guarded(recipe: AnyRecipe, sources: AnySources, run: RunFolder, say: Say) -> Guarded:
    guarded = guard(recipe, sources, run.path.resolve().name)
    guarded.report.require_none()
    for line in guarded.report.lines():
        say(line)
    return guarded


def _say_left_out(sources: AnySources, say: Say) -> None:
    for split, source in {"train": sources.train, **sources.evaluated}.items():
        for reason, count in source.left_out.items():
            say(f"{split}: {count} clips left out: {reason}")


def save_trained(system: System, run: RunFolder) -> None:
    """Writes `model/` (and for AdaLTM the coefficients beside it)."""
    if isinstance(system, MaskedPrediction):
        system.encoder.save(run.model / "encoder")
        return
    if isinstance(system, HarmoniFuse):
        save_model(system, run.model)
        return
    assert isinstance(system, AdaLTM | JointAdaLTM | SERFinetune | ASRFinetune | Multitask | LateFusion)
    save_model(system.model, run.model)
    if isinstance(system, AdaLTM | JointAdaLTM):
        write_json(run.model / "coefficients.json", _coefficients(system))


def _coefficients(system: AdaLTM | JointAdaLTM) -> dict[str, Any]:
    """What was learned of a merge, as JSON."""
    model = system.model
    merged = model.encoder
    assert isinstance(merged, MergedBackbone)
    told = {
        "granularity": merged.granularity,
        "vectors": list(merged.vectors),
        "coefficients": merged.coefficients_by_layer(),
        "layer_weights": model.layer_sum.weights.tolist(),
    }
    if isinstance(model, JointModel) and model.words_encoder is not None:
        told["coefficients_asr"] = model.words_encoder.coefficients_by_layer()
    return told


def _write_scored(
    answers: Mapping[str, Sequence[Prediction]],
    run: RunFolder,
    doubts: Callable[..., dict[str, list[str]]] | None = None,
) -> None:
    """Writes predictions and scores; with the scores, what is doubtful of them."""
    metrics: dict[str, Any] = {}
    for split, predictions in answers.items():
        write_predictions(run.predictions(split), predictions)
        metrics[split] = score(read_predictions(run.predictions(split))).as_dict()
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
