"""A finished table as Markdown and on a terminal."""

from __future__ import annotations

import json

from voxstrata.cli.reproduce import show
from voxstrata.experiments.tables.results import markdown
from voxstrata.reporting.runs_table import Table

DIFFERENCE = {"difference": 0.25, "interval": [-0.01, 0.5], "smallest": 0.1, "unit": "speaker"}


def stored(content: dict) -> Table:
    """A table as it is read from its file."""
    return Table.model_validate_json(json.dumps(content))


def test_a_section_has_rows_the_papers_numbers_and_paired_differences():
    def cell(value: float) -> dict:
        return {"value": value, "iid": [value - 0.1, value + 0.1], "speaker": [value - 0.2, value + 0.2]}

    content = {
        "table": "t", "title": "T", "scale": "s", "command": "voxstrata", "note": "",
        "date": "today", "commit": None, "machine": "m",
        "columns": ["uar", "wer"],
        "rows": [
            {"name": "one", "title": "one", "metrics": {"uar": cell(0.5)}, "paper": {"uar": 38.94}},
            {"name": "two", "title": "two", "metrics": {"uar": cell(0.25), "wer": cell(0.3)}, "paper": None},
        ],
        "contrasts": [
            {"name": "one - two", "title": "one, less two", "clips": 9, "differences": {"uar": DIFFERENCE}}
        ],
        "oracles": [{"corpus": "speech", "words": 0.4, "prosody": 0.5, "both": 0.75}],
    }  # fmt: skip
    lines = markdown(stored(content)).splitlines()
    assert "| row | UAR | WER | paper's UAR |" in lines
    assert "| one | 50.0 [30.0, 70.0] | - | 38.94 |" in lines
    assert "| two | 25.0 [5.0, 45.0] | 30.0 [10.0, 50.0] | - |" in lines
    assert "| paired difference, points | UAR |" in lines
    assert "| one, less two | +25.0 [-1.0, +50.0] |" in lines
    assert any("drawn: speech: words 40.0, prosody 50.0, both 75.0." in line for line in lines)
    assert any("The paper's numbers are of its own data" in line for line in lines)
    plain = content | {"rows": [row | {"paper": None} for row in content["rows"]]}
    plain |= {"contrasts": [], "oracles": []}
    assert not any(word in markdown(stored(plain)) for word in ("paper", "difference", "Oracles"))


def test_a_narrow_terminal_shows_the_names_of_rows_and_contrasts(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    columns = ["uar", "precision", "macro_f1", "wer"]
    cell = {"value": 0.5, "iid": [0.4, 0.6], "speaker": [0.3, 0.7]}
    differences = dict.fromkeys(columns, DIFFERENCE | {"difference": 0.1, "interval": [0.0, 0.2]})
    content = {
        "table": "t", "title": "T", "scale": "s", "note": "", "columns": columns,
        "rows": [{"name": "row", "title": "a row of some length", "metrics": dict.fromkeys(columns, cell)}],
        "contrasts": [
            {"name": "one - the other", "title": "", "clips": 9, "differences": differences}
        ],
    }  # fmt: skip
    (tmp_path / "table.json").write_text(json.dumps(content))
    show(tmp_path, as_json=False)
    told = capsys.readouterr().out
    assert "a row of some length" in told and "one - the other" in told
    assert told.count("50.0 [30.0, 70.0]") == 4 and told.count("+10.0 [+0.0, +20.0]") == 4


def test_a_difference_over_few_speakers_says_what_a_verdict_lacks() -> None:
    lacking = {**DIFFERENCE, "missing": "no verdict with only 2 known speakers"}
    contrasts = [
        {"name": name, "title": name, "clips": 3, "differences": {"uar": found}}
        for name, found in (("a - b", lacking), ("c - b", DIFFERENCE))
    ]
    table = stored({"table": "t", "columns": ["uar"], "rows": [], "contrasts": contrasts})
    assert table.warnings == ["no verdict with only 2 known speakers (a - b)"]
