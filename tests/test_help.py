"""Help pages: every command has its group and an example that works as typed, and nothing is cut off."""

import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from voxstrata.cli.help_pages import EXAMPLES, GROUPS
from voxstrata.cli.main import app

PROGRAM: Any = typer.main.get_command(app)


def commands(group: Any = PROGRAM, path: tuple[str, ...] = ()) -> dict[str, Any]:
    found = {}
    for name, command in group.commands.items():
        below = (*path, name)
        found |= commands(command, below) if hasattr(command, "commands") else {" ".join(below): command}
    return found


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, [*words], env={"COLUMNS": "80"}, terminal_width=80)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_command_stands_in_one_group_and_has_an_example():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(PROGRAM.commands)
    assert sorted(EXAMPLES) == sorted(commands())


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_shows_groups_in_order_with_whole_sentences(flag):
    page = shown(flag)
    lines = page.splitlines()
    assert "..." not in page.partition("\n")[2]
    headings = [line.removesuffix(":") for line in lines if line and not line.startswith(" ")]
    assert headings[headings.index("Options") + 1 :] == list(GROUPS)
    first = [
        line.split()[0]
        for line in lines[lines.index("Start here:") :]
        if line.startswith("  ") and line[2] != " "
    ]
    assert first == [name for names in GROUPS.values() for name in names]
    flat = " ".join(page.split())
    for name, command in PROGRAM.commands.items():
        sentence = " ".join(command.get_short_help_str(limit=1000).split())
        assert f"{name} {sentence}" in flat.replace("fine- tuning", "fine-tuning")


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_parses_and_stands_on_its_page(name):
    words = shlex.split(EXAMPLES[name])
    assert words[: 1 + len(name.split())] == ["voxstrata", *name.split()]
    commands()[name].make_context(name, words[1 + len(name.split()) :])
    page = shown(*name.split(), "-h")
    assert f"Example:\n    {EXAMPLES[name]}\n" in page
    flat = "".join(page.split())
    for option in commands()[name].params:
        assert "".join((option.help or "").split()) in flat
