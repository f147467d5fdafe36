"""Writes the generated pages: the reference from the program itself, the results from archived answers.

python docs/generate.py          writes docs/reference/*.md
python docs/generate.py results  writes tables and figures of docs/results.md, docs/results/ and README.md
With --check it names the files that differ, and writes nothing.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the program; `make reference` writes it anew. -->\n\n"
EXIT_CODES = """| Exit code | Meaning |
|---|---|
| 0 | done |
| 1 | an error in voxstrata itself, with a traceback |
| 2 | an error in the input; one line says what was found, what is allowed and what to do |
| 3 | done, but some inputs failed; each is named |
| 130 | stopped by Ctrl-C; the same command resumes from the last checkpoint |
"""


def pages() -> dict[str, str]:
    """Name of each generated page -> its text."""
    from recipe_reference import defaults_page, leaks_page, packaged_page, recipes_page, tables_page

    return {
        "commands.md": NOTE + commands_page(),
        "recipes.md": NOTE + recipes_page(),
        "tables.md": NOTE + tables_page(),
        "defaults.md": NOTE + defaults_page(),
        "leaks.md": NOTE + leaks_page(),
        "packaged.md": NOTE + packaged_page(),
        "api.md": NOTE + api_page(),
    }


def text(words: str) -> str:
    """A sentence of the program as Markdown in one line: options as code, nothing read as markup."""
    line = " ".join(words.split()).replace("|", r"\|").replace("*", r"\*").replace("<", r"\<")
    line = re.sub(r'"([\w.-]+)"', r"`\1`", re.sub(r"\bNone\b", "`null`", line))
    parts = re.split(r"(`[^`]*`)", line)
    option = r"(?<![\w`-])(--?[a-zA-Z][\w-]*)"
    return "".join(part if part.startswith("`") else re.sub(option, r"`\1`", part) for part in parts)


def row(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, in the order of the help."""
    from voxstrata.cli.main import app

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield " ".join(path), command
            return
        for name in command.list_commands(None):
            yield from below(command.commands[name], (*path, name))

    yield from below(typer.main.get_command(app), ("voxstrata",))


def parameter_name(command: Any, parameter: Any) -> str:
    """How an argument or option is written: `--out PATH`, `RECIPE`."""
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    if parameter.is_flag:
        return parameter.opts[0]
    kind = str(inspect.signature(command.callback).parameters[parameter.name].annotation)
    names = {"Path": "PATH", "int": "N", "float": "X", "str": "TEXT"}
    value = parameter.metavar or next(name for part, name in names.items() if part in kind)
    return f"{parameter.opts[0]} {value}"


def parameter_default(parameter: Any) -> str:
    """The default in words."""
    if parameter.required:
        return "required"
    if parameter.param_type_name == "option" and parameter.is_flag:
        return "off"
    return "none" if parameter.default is None else f"`{parameter.default}`"


def commands_page() -> str:
    """Every command with usage, arguments, options, defaults and an example."""
    from voxstrata.cli.help_pages import EXAMPLES

    lines = [
        "# Commands\n",
        "Results go to standard output, progress and messages to standard error. With `--json` standard "
        "output is JSON only. `-h` after a command prints its part of this page.\n",
        EXIT_CODES,
        "Options before the command: `--debug` shows the traceback of an error that is otherwise one line; "
        "`--version` prints the version.\n",
    ]
    for name, command in commands():
        lines += [f"## {name}\n", *(f"{text(part)}\n" for part in re.split(r"\n\s*\n", command.help or ""))]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
        given = [*(parameter_name(command, p) for p in arguments), *["[OPTIONS]"] * bool(options)]
        lines += [
            "```text",
            " ".join([name, *given]),
            "```\n",
            "```sh",
            EXAMPLES[name.removeprefix("voxstrata ")],
            "```\n",
        ]
        if arguments or options:
            lines += [row("Argument or option", "Default", "Meaning"), "|---|---|---|"]
            for parameter in [*arguments, *options]:
                shown = f"`{parameter_name(command, parameter)}`".replace("|", r"\|")
                lines.append(row(shown, parameter_default(parameter), text(parameter.help or "")))
            lines.append("")
    return "\n".join(lines)


def api_page() -> str:
    """Every public name of `voxstrata` with its docstring, as Sphinx reads them."""
    import voxstrata

    lines = [
        "# Python API\n",
        "The public names of `voxstrata`. Each is imported at its first use, so that `import voxstrata` is "
        "quick. Examples: [voxstrata in Python](../python.md).\n",
    ]
    for name in voxstrata.__all__:
        if name.startswith("__"):
            continue
        kind = "class" if inspect.isclass(getattr(voxstrata, name)) else "function"
        lines += [f"## {name}\n", "```{eval-rst}", f".. auto{kind}:: voxstrata.{name}"]
        lines += ["   :members:"] * (kind == "class")
        lines += ["```\n"]
    lines += ["## VoxstrataError\n", "```{eval-rst}", ".. autoclass:: voxstrata.errors.VoxstrataError"]
    return "\n".join([*lines, "```\n"])


def main() -> int:
    """Writes the pages, or checks them; returns the exit code."""
    sys.path.insert(0, str(Path(__file__).parent))
    check = "--check" in sys.argv
    if "results" in sys.argv:
        from result_pages import pages as written
    else:

        def written() -> dict[Path, str]:
            return {FOLDER / name: content for name, content in pages().items()}

    stale = []
    for path, content in written().items():
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(path.name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
    print(f"{'differ' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
