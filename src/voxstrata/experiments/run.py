"""One recipe, from start to report, into one run folder; started again, it goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import RecipeError
from voxstrata.evaluation.score import score
from voxstrata.experiments.build import Say, Sources, build_sources, build_system, fit_options
from voxstrata.experiments.provenance import now, provenance
from voxstrata.inference.path import predict
from voxstrata.merging.merged import MergedBackbone
from voxstrata.predictions import read_predictions, write_predictions
from voxstrata.recipes.reading import dump
from voxstrata.recipes.schema import AdaLTMRecipe, AnyRecipe
from voxstrata.runs import RunFolder, atomic_write, write_json
from voxstrata.systems.adaltm import AdaLTM
from voxstrata.systems.finetune import ASRFinetune, SERFinetune
from voxstrata.systems.model_folder import save_model
from voxstrata.systems.pretraining import MaskedPrediction
from voxstrata.systems.system import System
from voxstrata.training.loop import fit
from voxstrata.training.options import Progress


def execute(
    recipe: AnyRecipe,
    run: RunFolder,
    *,
    keyed: bool = False,
    say: Say = lambda message: None,
    progress: Callable[[Progress], None] | None = None,
) -> RunFolder:
    """Trains, predicts, scores and reports. A finished run is returned as it is.

    Args:
        recipe: resolved.
        run: the folder; one that was interrupted is continued from its last checkpoint.
        keyed: the folder's name is a hash of the recipe's content, so that a recipe in it that spells
            paths differently is the same all the same.
        say: receives lines for the user.
        progress: receives the loop's progress.

    Raises:
        RecipeError: if the folder holds a run of another recipe.
        VoxstrataError: see `fit`.
    """
    with run.lock():
        if not keyed:
            _refuse_another(recipe, run)
        if run.is_complete:
            say(f"{run.path} is done already")
            return run
        sources = build_sources(recipe)
        _say_left_out(sources, say)
        system = build_system(recipe, sources, say)
        _claim(recipe, run)
        fit(system, sources.train, sources.dev, run, fit_options(recipe), progress)
        save_trained(system, run)
        write_answers(system, sources, run)
        _finish(run)
    return run


def _refuse_another(recipe: AnyRecipe, run: RunFolder) -> None:
    if run.recipe.is_file() and run.recipe.read_text(encoding="utf-8") != dump(recipe):
        raise RecipeError(f"{run.path} holds a run of another recipe; choose another folder with --out")


def _claim(recipe: AnyRecipe, run: RunFolder) -> None:
    """Writes recipe and provenance into a new folder, once all parts of the recipe were found to hold."""
    if run.recipe.is_file():
        return
    fingerprints = {use.path: PreparedCorpus.load(Path(use.path)).fingerprint for use in recipe.data.corpora}
    vectors = recipe.vectors if isinstance(recipe, AdaLTMRecipe) else {}
    # Relative to the run, so that a moved folder of runs still finds its experts.
    parents = {
        name: os.path.relpath(source, run.path) if Path(source).exists() else source
        for name, source in vectors.items()
    }
    write_json(run.provenance, provenance(seed=recipe.seed, fingerprints=fingerprints, parents=parents))
    atomic_write(run.recipe, dump(recipe))


def _say_left_out(sources: Sources, say: Say) -> None:
    for split, source in {"train": sources.train, **sources.evaluated}.items():
        for reason, count in source.left_out.items():
            say(f"{split}: {count} clips left out: {reason}")


def save_trained(system: System, run: RunFolder) -> None:
    """Writes `model/` (and for AdaLTM the coefficients beside it)."""
    if isinstance(system, MaskedPrediction):
        system.encoder.save(run.model / "encoder")
        return
    assert isinstance(system, AdaLTM | SERFinetune | ASRFinetune)
    save_model(system.model, run.model)
    if isinstance(system, AdaLTM):
        merged: MergedBackbone = system.merged
        write_json(
            run.model / "coefficients.json",
            {
                "granularity": merged.granularity,
                "vectors": list(merged.vectors),
                "coefficients": merged.coefficients_by_layer(),
                "layer_weights": system.model.layer_sum.weights.tolist(),
            },
        )


def write_answers(system: System, sources: Sources, run: RunFolder) -> None:
    """Writes predictions and scores of every evaluated split."""
    metrics: dict[str, Any] = {}
    for split, source in sources.evaluated.items():
        write_predictions(run.predictions(split), predict(system, source.epoch(0)))
        metrics[split] = score(read_predictions(run.predictions(split))).as_dict()
    write_json(run.metrics, metrics)


def _finish(run: RunFolder) -> None:
    from voxstrata.reporting.page import write_report

    about = json.loads(run.provenance.read_text(encoding="utf-8"))
    write_json(run.provenance, about | {"finished": now()})
    write_report(run)
    atomic_write(run.complete, now() + "\n")
    # Several times the size of the model, and nothing is left to resume.
    shutil.rmtree(run.checkpoints, ignore_errors=True)
