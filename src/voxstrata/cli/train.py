"""`voxstrata train` and `voxstrata pretrain`: one recipe into one run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.dry_run import DRY_RUN, TFLOPS, assumptions, refuse_without_dry_run, show
from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.config.recipe import Recipe
    from voxstrata.runs import RunFolder
    from voxstrata.training.progress import Progress

RECIPE = typer.Argument(..., help="A recipe file, or the name of a packaged recipe.")
OVERRIDES = typer.Argument(
    None,
    metavar="[KEY=VALUE]...",
    help="Overrides a recipe key, such as training.epochs=3; the value is read as YAML.",
)
OUT = typer.Option(
    None, "--out", help="Run folder. Default: runs/RECIPE. An interrupted run in it is resumed."
)

AS_JSON = typer.Option(False, "--json", help="Print JSON: folders, scores and the kept step; or the dry run.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("train")(train)
    app.command("pretrain")(pretrain)


def train(
    recipe: str = RECIPE,
    overrides: list[str] | None = OVERRIDES,
    out: Path | None = OUT,
    limit: int | None = typer.Option(
        None, "--limit", min=1, help="At most N clips per split of each corpus, for a quick try."
    ),
    dry_run: bool = DRY_RUN,
    tflops: float | None = TFLOPS,
    as_json: bool = AS_JSON,
) -> None:
    """Fine-tune an expert, merge experts (AdaLTM), or train a model for several tasks (HarmoniFuse).

    Trains, predicts dev and test, scores them and writes a report. A finished run is not trained again;
    a folder with a run of another recipe is refused, and so is a run with leaked test speakers.

    --dry-run trains and downloads nothing. It checks that corpora, audio files and checkpoints are there
    and fit, looks for leaks, and estimates memory, disk space and time. torchrun starts several
    processes.
    """
    if dry_run:
        _check(recipe, overrides or [], out, limit, tflops, as_json)
        return
    refuse_without_dry_run({"--tflops": tflops is not None})
    _run(recipe, overrides or [], out, as_json, limit=limit)


def pretrain(
    recipe: str = RECIPE,
    overrides: list[str] | None = OVERRIDES,
    out: Path | None = OUT,
    as_json: bool = AS_JSON,
) -> None:
    """Pre-train an encoder by masked prediction of clustered targets."""
    _run(recipe, overrides or [], out, as_json, system="pretraining")


def _check(
    source: str,
    overrides: list[str],
    out: Path | None,
    limit: int | None,
    tflops: float | None,
    as_json: bool,
) -> None:
    from voxstrata.experiments.dry_run.run import dry_run
    from voxstrata.experiments.start import planned

    recipe, run = planned(source, overrides, out=out, limit=limit, download=False, notify=_to_stderr)
    found = dry_run({Path(source).stem: recipe}, run.path, assumed=assumptions(tflops))
    show(found, as_json)


def _run(
    source: str,
    overrides: list[str],
    out: Path | None,
    as_json: bool,
    *,
    system: str | None = None,
    limit: int | None = None,
) -> None:
    from voxstrata.cli.processes import joined
    from voxstrata.cli.program import program
    from voxstrata.errors import RecipeError
    from voxstrata.experiments.run import execute
    from voxstrata.experiments.start import planned

    with joined() as processes:
        notify = _to_stderr if processes.leads else None
        recipe, run = planned(source, overrides, out=out, limit=limit, notify=notify)
        if system is not None and recipe.system != system:
            raise RecipeError(
                f"{source} is a recipe for {recipe.system}; run it with: {program()} train {source}"
            )
        if processes.leads:
            _shown(recipe, run)
        else:
            execute(recipe, run)
    if processes.leads:
        _end(run, as_json)


def _to_stderr(line: str) -> None:
    tell(line, "")


def _shown(recipe: Recipe, run: RunFolder) -> None:
    from voxstrata.cli.progress import bar
    from voxstrata.experiments.start import start

    with bar() as (notify, advance):

        def progress(now: Progress) -> None:
            advance(now.step, now.steps_total, f"epoch {now.epoch + 1}, loss {now.loss:.3f}")

        start(recipe, run, notify=notify, progress=progress)


def _end(run: RunFolder, as_json: bool) -> None:
    from voxstrata.cli.outcome import outcome, outcome_object, outcome_warnings

    if as_json:
        typer.echo(json.dumps(outcome_object(run), indent=2))
    for line in () if as_json else outcome(run):
        typer.echo(line)
    for line in outcome_warnings(run):
        tell(line, "warning")
