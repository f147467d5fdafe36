"""The command line: one file a command; heavy imports stay inside the commands."""

from __future__ import annotations

import importlib
import sys
import warnings

import typer

#: Command or group -> module in `voxstrata.cli` that registers it. Each module has `register(app)`.
COMMANDS = (
    "corpus",
    "evaluate",
    "compare",
    "train",
    "predict",
    "reproduce",
    "report",
    "inspect",
    "probe",
    "curve",
    "prompts",
    "export",
    "bench",
    "demo",
)

app = typer.Typer(
    name="voxstrata",
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


for _command in COMMANDS:
    importlib.import_module(f"voxstrata.cli.{_command}").register(app)


def main() -> None:
    """Runs a command; a fault in what was given is one line and exit code 2, a fault of ours 1."""
    from voxstrata.errors import VoxstrataError

    debug = "--debug" in sys.argv
    # WavLM's attention in transformers passes masks of two kinds; torch says so at every first padded batch.
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
    try:
        app()
    except VoxstrataError as fault:
        if debug:
            raise
        print(f"voxstrata: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main()
