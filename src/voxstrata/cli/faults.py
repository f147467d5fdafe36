"""The line that ends a command: for faults in what was given, on the command line too, and of the machine."""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Any

import typer

from voxstrata.cli.program import program
from voxstrata.errors import VoxstrataError, did_you_mean

#: What typer raises for a command line that it cannot read.
_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
#: How torch says that memory is short, on a CPU and on a GPU.
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)

#: Characters of what was typed that are shown.
_SHOWN = 60


def line_for(fault: Exception) -> tuple[str, int] | None:
    """The line for a fault and the exit code; None for a fault of ours, whose traceback is shown."""
    if isinstance(fault, VoxstrataError):
        return str(fault), fault.exit_code
    if isinstance(fault, _USAGE):
        return _usage_line(fault), 2
    if isinstance(fault, typer.Abort):
        return "a file, or standard input, ended before it was whole; give a whole one", 2
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


def _usage_line(fault: Any) -> str:
    """What is wrong with a command line: what was found, what is allowed, and the page that tells more."""
    words, command = _typed(getattr(fault, "ctx", None))
    return f"{_sentence(fault, ' '.join(words), command)}; see {' '.join([program(), *words, '-h'])}"


def _sentence(fault: Any, name: str, command: Any) -> str:
    kind, parameter = type(fault).__name__, getattr(fault, "param", None)
    name = name or "the command line"
    if kind == "NoSuchOption":
        return _no_option(fault.option_name, name, command)
    if kind == "MissingParameter" and parameter is not None:
        return f"{name} needs {_named(parameter)}: {_about(parameter)}"
    if kind == "BadOptionUsage":
        option = next((one for one in command.params if fault.option_name in one.opts), None)
        if option is None or option.is_flag:
            return f"{name} {fault.option_name} takes no value; leave the value out"
        count = "a value" if option.nargs == 1 else f"{option.nargs} values ({option.metavar})"
        return f"{name} {fault.option_name} needs {count}: {_about(option)}"
    if parameter is not None:
        return f"{name} {_named(parameter)}: {_wrong_value(fault)}"
    if extra := re.fullmatch(r"(?s)Got unexpected extra arguments?(?:\(s\))? \((.*)\)", fault.message):
        return f"{name} takes fewer arguments: {extra[1][:_SHOWN]!r} is too much; leave it out"
    return f"{name}: {_own_words(fault)}"


def _no_option(option: str, name: str, command: Any) -> str:
    words, typed = _typed(None)
    if hasattr(command, "commands") and option in (one for known in typed.params for one in known.opts):
        return f"{option} is an option of {' '.join(words)}; give it after that"
    known = [one for parameter in command.params for one in parameter.opts if one.startswith("--")]
    return f"{name} has no option {option[:_SHOWN]}{did_you_mean(option, known)}"


def _wrong_value(fault: Any) -> str:
    """What was found and what is allowed: typer's cause tells it since it lets pydantic read values."""
    if hasattr(fault.__cause__, "errors"):
        from voxstrata.config.problems import problems_in

        return "; ".join(problems_in(fault.__cause__))
    return _own_words(fault)


def _own_words(fault: Any) -> str:
    text = " ".join(str(fault.message).split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _named(parameter: Any) -> str:
    """How a parameter is written: --out, RECIPE."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper()).removesuffix("...")


def _about(parameter: Any) -> str:
    text = str(parameter.help or "a value").rstrip(".")
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _typed(context: Any) -> tuple[list[str], Any]:
    """The words of the command in which the fault is, and the command; without a context the one typed."""
    from voxstrata.cli.commands import app

    words: list[str] = []
    command: Any
    if context is not None:
        command = context.command
        while context.parent is not None:
            words, context = [context.info_name, *words], context.parent
        return words, command
    command = typer.main.get_command(app)
    for word in sys.argv[1:]:
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
            words.append(word)
    return words, command
