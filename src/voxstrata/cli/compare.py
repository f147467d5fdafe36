"""`voxstrata compare`: two systems on the same clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.evaluate import TITLES, bounds, clips_line, listed, percent, word_errors_line
from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.evaluation.comparison import Comparison, Difference


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
    console.print(clips_line(found.clips, found.speakers, found.unanswered, found.errors), soft_wrap=True)
    table = Table("percent", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("A", "B", "B - A", "95 % of B - A", "detectable", "resampled"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, value in found.differences.items():
        table.add_row(
            _title(name),
            percent(value.a),
            percent(value.b),
            f"{100 * value.difference:+.2f}",
            bounds(value.interval),
            percent(value.smallest),
            f"{value.unit}s",
        )
    console.print(table)
    console.print(
        "detectable: the smallest true difference that would show here with 80 % power at 5 %", soft_wrap=True
    )
    for line in dict.fromkeys(value.missing for value in found.differences.values() if value.missing):
        console.print(line, soft_wrap=True)
    for name, value in found.differences.items():
        if name in ("uar", "wer") and not value.missing:
            console.print(f"{_title(name)}: {_verdict(name, value)}", soft_wrap=True)
    if found.word_errors is not None:
        for system, errors in zip("AB", found.word_errors, strict=True):
            console.print(f"{system}: {word_errors_line(errors)}", soft_wrap=True)
        console.print(f"normaliser: {found.normalizer}", soft_wrap=True)


def _title(name: str) -> str:
    """Of a metric; that of a further class task, e.g. `uar_gender`, with the task."""
    from voxstrata.reporting.wording import metric_and_field

    metric, field = metric_and_field(name)
    return " ".join(filter(None, (TITLES[metric or name], field)))


def _verdict(name: str, value: Difference) -> str:
    if not value.shown:
        return "no difference shown"
    better = (value.difference > 0) == (name == "uar")
    return f"{'B' if better else 'A'} is better"
