"""`voxstrata train` and `voxstrata pretrain`: one recipe into one run folder."""

from __future__ import annotations

from pathlib import Path

import typer

RECIPE = typer.Argument(..., help="A recipe file, or the name of a packaged recipe.")
OVERRIDES = typer.Argument(None, metavar="[KEY=VALUE]...", help="Laid over the recipe: training.epochs=3")
OUT = typer.Option(None, "--out", help="Run folder; runs/RECIPE by default. An interrupted run goes on.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("train")(train)
    app.command("pretrain")(pretrain)


def train(recipe: str = RECIPE, overrides: list[str] | None = OVERRIDES, out: Path | None = OUT) -> None:
    """Fine-tune an expert, or merge experts with learned coefficients (AdaLTM)."""
    _run(recipe, overrides or [], out)


def pretrain(recipe: str = RECIPE, overrides: list[str] | None = OVERRIDES, out: Path | None = OUT) -> None:
    """Pre-train an encoder by masked prediction of clustered targets."""
    _run(recipe, overrides or [], out, system="pretraining")


def _run(source: str, overrides: list[str], out: Path | None, system: str | None = None) -> None:
    from voxstrata.cli.progress import bar
    from voxstrata.errors import RecipeError
    from voxstrata.experiments.run import execute
    from voxstrata.recipes.reading import read_recipe
    from voxstrata.runs import RunFolder

    recipe = read_recipe(source, overrides)
    if system is not None and recipe.system != system:
        raise RecipeError(f"{source} is a recipe for {recipe.system}; run it with: voxstrata train {source}")
    run = RunFolder(out or Path("runs") / Path(source).stem)
    with bar() as (say, advance):
        execute(
            recipe,
            run,
            say=say,
            progress=lambda now: advance(now.step, now.steps_total, f"epoch {now.epoch} loss {now.loss:.3f}"),
        )
    typer.echo(run.path)
