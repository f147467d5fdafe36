"""`voxstrata push`: an export onto the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import typer

from voxstrata.cli.lines import tell


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("push")(push)


def push(
    folder: Path = typer.Argument(..., help="A folder that `voxstrata export` wrote."),
    repo: str = typer.Argument(..., metavar="USER/NAME", help="Repository on the Hub; made if need be."),
    private: bool = typer.Option(False, "--private", help="Nobody else may see it."),
) -> None:
    """Upload an export to the Hugging Face Hub, in one commit.

    Log in first with `hf auth login`, or set HF_TOKEN. Read the model card before: licences of base, experts
    and data are yours to settle. The files are those of the export alone; the card's lines load them from
    the Hub. HF_ENDPOINT names another server.
    """
    from voxstrata.exporting.hub import push as upload

    typer.echo(upload(folder, repo, private=private, notify=tell))
