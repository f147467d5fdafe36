"""`voxstrata compare`: two systems on the same clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.evaluate import listed
from voxstrata.cli.lines import tell
from voxstrata.evaluation.shown import (
    DIFFERENCE_HEADINGS,
    clips_line,
    difference_rows,
    verdict_lines,
    word_errors_line,
)

if TYPE_CHECKING:
    from voxstrata.evaluation.comparison import Comparison


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compare")(compare)


def compare(
    a: Path = typer.Argument(help="First system: predictions file, run folder, or - for standard input."),
    b: Path = typer.Argument(help="Second system, with the same ids."),
    split: str | None = typer.Option(None, help="Split of run folders. Default: test."),
    normalizer: str = typer.Option(
        "basic",
        help="Of transcripts: none, basic, no-apostrophe, spelled (by letter);"
        " 'basic without say' ignores 'say'.",
    ),
    errors: str = typer.Option(
        "wrong", help="Clips without a prediction: wrong (count as wrong) or leave-out."
    ),
    labels: str | None = typer.Option(
        None, help="Emotions allowed, comma-separated. Default: all that occur."
    ),
    resamples: int = typer.Option(2000, min=2, max=1_000_000, help="Bootstrap samples."),
    seed: int = typer.Option(0, min=0, help="Random seed of the bootstrap."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Compare two systems on the same clips: B minus A, with a 95 % interval paired by speaker.

    Speakers are resampled, the same ones for both systems; where speakers are unknown, clips. Printed
    too is the smallest true difference that these data would show with 80 % power. With fewer than five
    known speakers no system is called better. A reference or speaker that only one file has serves both.
    """
    from voxstrata.cli.predictions_given import read_given
    from voxstrata.evaluation.comparison import compare as compared

    (name_a, rows_a), (name_b, rows_b) = read_given([a, b], split)
    found = compared(
        rows_a,
        rows_b,
        normalizer=normalizer,
        resamples=resamples,
        seed=seed,
        labels=listed(labels),
        errors=errors,
    )
    for warning in found.warnings:
        tell(warning, "warning")
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _print_comparison(name_a, name_b, found)


def _print_comparison(a: str, b: str, found: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"A {a}\nB {b}", soft_wrap=True)
    console.print(clips_line(found), soft_wrap=True)
    first, *headings = DIFFERENCE_HEADINGS
    table = Table(first, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in difference_rows(found.differences):
        table.add_row(*row)
    console.print(table)
    console.print(
        "detectable: the smallest true difference that would show here with 80 % power at 5 %", soft_wrap=True
    )
    for line in verdict_lines(found):
        console.print(line, soft_wrap=True)
    if found.word_errors is not None:
        for system, errors in zip("AB", found.word_errors, strict=True):
            console.print(f"{system}: {word_errors_line(errors)}", soft_wrap=True)
        console.print(f"normaliser: {found.normalizer}", soft_wrap=True)
