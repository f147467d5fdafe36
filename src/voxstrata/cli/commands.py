"""All commands: one file each; heavy imports stay inside them."""

from __future__ import annotations

import importlib

import typer

from voxstrata.cli.help_pages import Grouped, with_examples
from voxstrata.cli.one_writer import with_one_writer

#: Command or group -> module in `voxstrata.cli` that registers it. Each module has `register(app)`.
COMMANDS = (
    "corpus",
    "evaluate",
    "compare",
    "convert",
    "train",
    "adapt",
    "predict",
    "embed",
    "serve",
    "reproduce",
    "report",
    "merge",
    "merge_statistics",
    "inspect",
    "probe",
    "compare_merges",
    "curve",
    "prompts",
    "export",
    "push",
    "bench",
    "demo",
    "doctor",
)

app = typer.Typer(
    name="voxstrata",
    cls=Grouped,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Combine what several fine-tuned speech models know, layer by layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks of errors."),
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    context.obj = {"debug": debug}
    if version:
        from voxstrata import __version__

        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


for _command in COMMANDS:
    importlib.import_module(f"voxstrata.cli.{_command}").register(app)
with_examples(app)
with_one_writer(app)
