"""`voxstrata reproduce`: a whole table of experiments."""

from __future__ import annotations

import os
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("reproduce")(reproduce)


def reproduce(
    table: str = typer.Argument(..., help="A packaged table (adaltm) or a YAML file."),
    scale: str = typer.Option(..., "--scale", help="One of the table's scales: demo, real, ..."),
    data: Path | None = typer.Option(None, "--data", help="Folder of the corpora; default $VOXSTRATA_DATA."),
    out: Path = typer.Option(Path("runs"), "--out", help="Folder for runs, corpora and tables."),
    results: Path | None = typer.Option(
        None, "--results", help="Markdown file whose section for this table and scale is written anew."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Run a table's experiments (what is done is not done again) and print its rows."""
    folder = run_table(table, scale, data, out)
    show(folder, as_json)
    if results is not None:
        from voxstrata.experiments.results import write_section

        write_section(results, folder)


def run_table(table: str, scale: str, data: Path | None, out: Path) -> Path:
    """Runs a table under a progress bar; returns its folder."""
    from voxstrata.cli.progress import bar
    from voxstrata.experiments.reproduce import reproduce as run
    from voxstrata.experiments.table import read_table

    if data is None and os.environ.get("VOXSTRATA_DATA"):
        data = Path(os.environ["VOXSTRATA_DATA"])
    with bar() as (say, advance):
        return run(
            read_table(table),
            Path(table).stem,
            scale,
            out=out,
            data=data,
            say=say,
            tick=lambda now: advance(now.done, now.total, f"{now.run} {now.detail}"),
        )


def show(folder: Path, as_json: bool) -> None:
    """Prints a table's rows and where it lies."""
    import json

    from voxstrata.experiments.results import rich_table

    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(table, indent=2))
        return
    from rich.console import Console

    Console(highlight=False).print(rich_table(table))
    if table["note"]:
        typer.echo(f"note: {table['note']}")
    typer.echo(f"report: {folder / 'report.html'}")
