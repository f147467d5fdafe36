"""`voxstrata bench`: what things cost, beside the ways they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from voxstrata.benchmarks.measure import Progress
    from voxstrata.benchmarks.result import BenchmarkResult

JSON_FILE = typer.Option(None, "--json", metavar="FILE", help="Also write the result as JSON.")
QUICK = typer.Option(False, "--quick", help="Tiny shapes, to see that it runs; the figures say nothing.")
REPEATS = typer.Option(5, "--repeats", min=1, help="Timed runs of each way and case.")
THREADS = typer.Option(None, "--threads", min=1, help="Threads of torch; default: torch's choice.")


def register(app: typer.Typer) -> None:
    """Adds the group `bench`; each command is one module of `voxstrata.benchmarks`."""
    group = typer.Typer(help="Measure time and memory, interleaved with what they are compared with.",
                        no_args_is_help=True)  # fmt: skip
    group.command("attention")(attention)
    app.add_typer(group, name="bench")


def attention(
    shape: str = typer.Option("base", "--shape", help="WavLM of this shape: base or large."),
    batch_size: int = typer.Option(4, "--batch-size", min=1, help="Clips in a batch."),
    clips_s: str = typer.Option("2,5,10,20", "--clips", help="Lengths of clips in seconds: a,b,c."),
    dropout: bool = typer.Option(False, "--dropout", help="Train mode with dropout; else eval mode."),
    repeats: int = REPEATS,
    threads: int | None = THREADS,
    quick: bool = QUICK,
    json_file: Path | None = JSON_FILE,
) -> None:
    """Compare the fast attention with transformers' own, forward and forward with backward."""
    from voxstrata.benchmarks.attention import AttentionOptions, run
    from voxstrata.errors import VoxstrataError

    try:
        lengths = tuple(float(part) for part in clips_s.split(","))
        if min(lengths) < 0.1:
            raise ValueError
    except ValueError:
        raise VoxstrataError(
            f"--clips {clips_s!r} are no lengths; give seconds of at least 0.1, e.g. 2,5,10,20"
        ) from None
    options = AttentionOptions(
        shape=shape,  # type: ignore[arg-type]  # checked by run, which names what is allowed
        clips_s=lengths,
        batch_size=batch_size,
        repeats=repeats,
        dropout=dropout,
        threads=threads,
    )
    answer(lambda progress: run(options.quick() if quick else options, progress), json_file)


def answer(measure: Callable[[Progress], BenchmarkResult], json_file: Path | None) -> None:
    """Runs a benchmark under a progress bar, prints its table and writes its JSON."""
    from voxstrata.cli.progress import bar
    from voxstrata.runs import write_json

    with bar("runs") as (_, advance):
        result = measure(advance)
    if json_file is not None:
        write_json(json_file, result.as_dict())
    show(result)


def show(result: BenchmarkResult) -> None:
    """Prints what is compared, medians, peaks beyond resident memory, and ratios."""
    for name, meaning in result.compares.items():
        typer.echo(f"{name:<12} {meaning}")
    headings, cells = result.table()
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for line in ([], headings, *cells):
        typer.echo("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=False)))
    told = result.machine
    typer.echo(
        f"\nmedians of interleaved runs; MB beyond resident; {told['processor']}, {told['cores']} cores, "
        f"torch {told['torch']}"
    )
