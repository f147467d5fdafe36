"""`voxstrata adapt`: a model to own labels, in minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.experiments.adapt.adaptation import Adaptation


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("adapt")(adapt)


def adapt(
    model: str = typer.Argument(help="A run, a model folder, or an encoder."),
    data: Path = typer.Option(
        ..., "--data", help="A table as `corpus prepare table` takes it, or a prepared corpus."
    ),
    out: Path = typer.Option(..., "--out", help="Run folder for the adapted model."),
    maps: list[str] | None = typer.Option(
        None, "--map", metavar="NAME|OLD=NEW", help="Map emotions, as `corpus prepare` does."
    ),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out clips with faults; exit code 3."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of heads and batches."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Adapt a model to 50 to 500 clips with your own labels, and measure whether that helps.

    Candidates: a new head on the model's encoder; of a merge, also other coefficients. The best one is
    chosen by cross-validation over speakers, compared with baselines, and trained on all clips that are not
    marked test. The result is a run as `train` leaves it.
    """
    from voxstrata.experiments.adapt.adaptation import adapt as adapted

    done = adapted(
        model, data, out, seed=seed, maps=maps or (), skip_bad=skip_bad, notify=lambda line: tell(line, "")
    )
    for line in done.left_out:
        tell(line, "left out")
    if as_json:
        typer.echo(json.dumps({"run": str(done.run.path), **done.as_dict()}, indent=2))
    for line in () if as_json else _lines(done):
        typer.echo(line)
    if done.left_out:
        raise typer.Exit(3)


def _lines(done: Adaptation) -> list[str]:
    from voxstrata.cli.program import program

    width = max(map(len, done.scores))
    table = [
        f"{name:<{width}}  {100 * value:5.1f}{'  chosen' if name == done.chosen else ''}"
        for name, value in done.scores.items()
    ]
    curve = ", ".join(f"{100 * value:.1f} with {share:.0%}" for share, value in done.curve.items())
    return [
        f"{'UAR in cross-validation':<{width}}",
        *table,
        f"by share of the labels: {curve}",
        *done.sentences,
        f"model:  {done.run.model}",
        f"report: {done.run.report}",
        f"try it: {program()} predict PATH/TO/RECORDINGS --model {done.run.path}",
    ]
