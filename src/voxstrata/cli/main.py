"""The command line: one file a command; heavy imports stay inside the commands."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import typer

from voxstrata.cli.help_pages import Grouped, with_examples
from voxstrata.cli.lines import tell

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
    "push",
    "bench",
    "demo",
)

#: How torch says that memory is short, on a CPU and on a GPU.
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)

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


for _command in COMMANDS:
    importlib.import_module(f"voxstrata.cli.{_command}").register(app)
with_examples(app)


def main() -> None:
    """Runs a command; a fault in what was given, or of the machine, is one line and exit code 2."""
    # WavLM's attention in transformers passes masks of two kinds; torch says so at every first padded batch.
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold bytes that are no text.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        except SystemExit:
            # What is still buffered may find the disk full, and is to be told as well.
            sys.stdout.flush()
            raise
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as fault:
        told = _told(fault)
        if told is None or "--debug" in sys.argv:
            raise
        line, code = told
        _drop_output()
        with suppress(OSError):
            if line:
                tell(line)
        sys.exit(code)


def _told(fault: Exception) -> tuple[str, int] | None:
    """The line for a fault and the exit code; None for a fault of ours, whose traceback is shown."""
    from voxstrata.errors import VoxstrataError

    if isinstance(fault, VoxstrataError):
        return str(fault), fault.exit_code
    if isinstance(fault, MemoryError) or (isinstance(fault, RuntimeError) and _NO_MEMORY.search(str(fault))):
        return "there is not enough memory for this; take smaller batches or files, or a larger machine", 2
    if not isinstance(fault, OSError):
        return None
    reason = fault.strerror or str(fault) or type(fault).__name__
    if fault.filename is not None:
        return f"cannot read or write {os.fsdecode(fault.filename)!r}: {reason}; give another, or mend it", 2
    if isinstance(fault, BrokenPipeError):
        # Who read the answer has seen enough, as `head` does; click ends with 1 there, too.
        return "", 1
    if _output_fails():
        return f"cannot write to standard output: {reason}; free space, or write elsewhere", 2
    return f"cannot read or write a file: {reason}; see --debug for where", 2


def _output_fails() -> bool:
    """Whether nothing can be printed: what is buffered, or where nothing is, one more end of a line."""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), os.linesep.encode())
    except io.UnsupportedOperation:
        return False
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Lets the interpreter end without trying again what could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()
