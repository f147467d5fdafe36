"""`voxstrata demo`: the main job on the embedded default."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    out: Path = typer.Option(Path("runs"), "--out", help="Folder for runs, corpora and tables."),
) -> None:
    """Speak a corpus, fine-tune, merge two experts with learned coefficients, and compare (10 minutes)."""
    from voxstrata.cli.reproduce import run_table, show

    folder = run_table("adaltm", "demo", None, out)
    show(folder, as_json=False)
    typer.echo("try it:  voxstrata predict PATH/TO/RECORDINGS")
