"""`voxstrata doctor`: what is here, and what is missing."""

from __future__ import annotations

import json

import typer

from voxstrata.cli.lines import tell


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("doctor")
    def doctor(
        online: bool = typer.Option(
            False, "--online", help="Also ask whether the Hugging Face hub can be reached."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    ) -> None:
        """Show what is installed here, what is missing, and how to get it.

        Checks Python, torch, extras, audio formats, the hashes of the packaged models, disk and runs. Also
        runs the default encoder once. Exit code 0 if training and prediction with it can work, else 2 with
        what to do. Nothing goes over the network without --online.
        """
        from voxstrata.cli.doctor_checks import findings, summary

        found = findings(online=online)
        told = summary(found)
        if as_json:
            typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            width = max(len(finding.about) for finding in found)
            for finding in found:
                mark = {"ok": "  ", "missing": "- ", "bad": "! "}[finding.state]
                advice = f"; {finding.advice}" if finding.advice else ""
                typer.echo(f"{mark}{finding.about:<{width}}  {finding.found}{advice}")
        if not told["ready"]:
            bad = [finding for finding in found if finding.state == "bad"]
            tell("not ready: " + "; ".join(f"{one.about}: {one.advice}" for one in bad))
            raise typer.Exit(2)
        if not as_json:
            typer.echo("ready: training and prediction with the default encoder can run")
