"""`voxstrata report`."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("report")
    def report(
        run: Path = typer.Argument(
            ..., metavar="RUN", help="A run folder, or the folder of a table of runs."
        ),
    ) -> None:
        """Write a self-contained HTML page, and figures as SVG and CSV, into a run folder; print its path."""
        from voxstrata.errors import VoxstrataError
        from voxstrata.runs import RunFolder

        is_run = (run / "recipe.yaml").is_file() and (run / "provenance.json").is_file()
        is_table = (run / "table.json").is_file()
        if not (is_run or is_table):
            raise VoxstrataError(
                f"{run} is neither a run folder (recipe.yaml, provenance.json) nor a table (table.json); "
                "name a folder that `voxstrata train` or `voxstrata reproduce` wrote"
            )
        from voxstrata.reporting import write_report, write_table_report

        typer.echo(write_table_report(run) if is_table else write_report(RunFolder(run)))
