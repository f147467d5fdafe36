"""What is said of warnings, faults and notes is one line, whatever files and names put into it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from voxstrata import cli
from voxstrata.cli.lines import one_line, tell
from voxstrata.cli.outcome import outcome, outcome_object, outcome_warnings
from voxstrata.errors import VoxstrataError
from voxstrata.runs import RunFolder

#: Control characters of Unicode (C0, C1), both separators, half a character.
ODD = [*map(chr, (*range(32), *range(0x7F, 0xA0))), "\u2028", "\u2029", "\ud800"]
SCORED = {"value": 0.5, "speaker": None, "iid": [0.4, 0.6]}


@pytest.mark.parametrize("odd", ODD)
def test_a_line_stays_one_and_shows_what_was_in_it(odd, capsys):
    tell(f"a{odd}b", "warning")
    told = capsys.readouterr().err
    assert told.endswith("\n") and told[:-1].isprintable() and len(told.splitlines()) == 1
    assert told == f"warning: a{odd.encode('unicode_escape').decode()}b\n"


@pytest.mark.parametrize("plain", ["", "ärger", "怒り", "a b", "🙂", "שלום", "\u200d"])
def test_plain_text_stays_as_it_is(plain, capsys):
    assert one_line(plain) == plain
    tell(plain, "")
    assert capsys.readouterr().err == plain + "\n"


def finished(folder: Path, metrics: object, journal: str = "") -> RunFolder:
    run = RunFolder(folder)
    run.metrics.write_text(json.dumps(metrics))
    run.journal.write_text(journal)
    run.recipe.write_text("training: {epochs: 1}")
    return run


def test_what_scores_hold_stays_in_its_line(tmp_path):
    odd = "a\nvoxstrata: \x1b[31mdone"
    split = {"emotion": {"uar": SCORED}, "clips": 8, "speakers": 2, "warnings": [odd]}
    run = finished(tmp_path, {odd: split})
    assert all(line.isprintable() for line in [*outcome(run), *outcome_warnings(run)])
    (line,) = outcome_warnings(run)
    assert line.count("\\n") == 2 and line.count("\\x1b") == 2


@pytest.mark.parametrize(
    "metrics",
    [
        {"test": 3}, {"test": None}, {"test": []}, {"test": {"emotion": {}}}, {"test": {"emotion": 3}},
        {"test": {"emotion": {"uar": None}}}, {"test": {"emotion": {"uar": SCORED}}},
        {"test": {"emotion": {"uar": SCORED | {"value": "x"}}, "clips": 3}},
        {"test": {"emotion": {"uar": SCORED | {"iid": [1]}}, "clips": 3}},
        {"test": {"classes": 3}}, {"test": {"classes": {"a": {}}}}, {"test": {"warnings": 3}},
    ],
)  # fmt: skip
def test_scores_that_are_none_are_one_line(metrics, tmp_path):
    run = finished(tmp_path, metrics)
    with pytest.raises(VoxstrataError, match=r"metrics.json or journal.jsonl beside it do not hold"):
        [*outcome(run), *outcome_warnings(run)]


@pytest.mark.parametrize("row", [{"kind": "step"}, {"kind": "validation"}, {"kind": "step", "step": "x"}])
def test_a_journal_that_is_none_is_one_line(row, tmp_path):
    run = finished(tmp_path, {}, json.dumps(row) + "\n")
    with pytest.raises(VoxstrataError, match="do not hold what a run leaves"):
        (outcome_object(run), *outcome(run))


def direct(tree: ast.AST) -> list[str]:
    """Calls that print to standard error past `tell`."""
    return [
        f"{call.lineno} {ast.unparse(call)}"
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if (keyword.arg, ast.unparse(keyword.value)) in {("err", "True"), ("file", "sys.stderr")}
    ]


@pytest.mark.parametrize("path", sorted(Path(cli.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_commands_print_to_standard_error_in_one_way(path):
    assert path.name == "lines.py" or not direct(ast.parse(path.read_text(encoding="utf-8")))


def test_printing_past_it_is_found():
    assert direct(ast.parse("typer.echo(a, err=True)")) and direct(ast.parse("print(a, file=sys.stderr)"))
    assert not direct(ast.parse("typer.echo(a, err=as_json); print(a); tell(a)"))
