"""A finished table as Markdown and for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable

from voxstrata.reporting.wording import metric_title, points
from voxstrata.runs import atomic_write


def percent(cell: dict[str, Any] | None) -> str:
    """A rate with its interval, in percent: by speaker where speakers are known, else i.i.d.

    >>> percent({"value": 0.5, "iid": [0.4, 0.6], "speaker": [0.3, 0.7]})
    '50.0 [30.0, 70.0]'
    """
    if cell is None:
        return "-"
    low, high = cell.get("speaker") or cell["iid"]
    return f"{100 * cell['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _cells(table: dict[str, Any]) -> list[list[str]]:
    return [
        [row["title"], *(percent(row["metrics"].get(column)) for column in table["columns"])]
        for row in table["rows"]
    ]


def _papers(table: dict[str, Any]) -> list[str]:
    """The columns for which any row has the paper's number."""
    return [name for name in table["columns"] if any(name in (row["paper"] or {}) for row in table["rows"])]


def _paper_cells(row: dict[str, Any], papers: list[str]) -> list[str]:
    return [f"{row['paper'][name]:.2f}" if name in (row["paper"] or {}) else "-" for name in papers]


def _contrast_columns(table: dict[str, Any]) -> list[str]:
    contrasts = table["contrasts"]
    return [name for name in table["columns"] if any(name in one["differences"] for one in contrasts)]


def _contrast_cells(table: dict[str, Any], named: str) -> list[list[str]]:
    columns = _contrast_columns(table)
    return [
        [one[named], *(_difference(one["differences"].get(column)) for column in columns)]
        for one in table["contrasts"]
    ]


def _difference(cell: dict[str, Any] | None) -> str:
    return "-" if cell is None else points(cell["difference"], cell["interval"])


def rich_contrasts(table: dict[str, Any]) -> RichTable | None:
    """The paired differences for a terminal; None where the table names none."""
    if not table["contrasts"]:
        return None
    shown = RichTable(title="paired differences in points", box=box.SIMPLE, padding=(0, 1))
    shown.add_column("runs", no_wrap=True)
    for column in _contrast_columns(table):
        shown.add_column(metric_title(column), justify="right", no_wrap=True)
    for cells in _contrast_cells(table, "name"):
        shown.add_row(*cells)
    return shown


def rich_table(table: dict[str, Any]) -> RichTable:
    """The rows for a terminal."""
    title = f"{table['title']} ({table['scale']}): percent, 95 % intervals by speaker"
    shown = RichTable(title=title, box=box.SIMPLE, padding=(0, 1))
    shown.add_column("row")
    for column in table["columns"]:
        shown.add_column(metric_title(column), justify="right", no_wrap=True)
    for cells in _cells(table):
        shown.add_row(*cells)
    return shown


def markdown(table: dict[str, Any]) -> str:
    """The rows as a Markdown section: date, commit, machine, command, numbers."""
    papers = _papers(table)
    columns = [*map(metric_title, table["columns"]), *(f"paper's {metric_title(name)}" for name in papers)]
    rows = zip(_cells(table), table["rows"], strict=True)
    lines = [
        f"## {table['title']}: {table['scale']}",
        "",
        *([f"**{table['note']}**", ""] if table["note"] else []),
        f"`{table['command']}`, {table['date']} UTC, "
        f"commit {table['commit'] or 'unknown'}, {table['machine']}. "
        "Percent, with 95 % intervals by resampling speakers."
        + (" The paper's numbers are of its own data, and no target." if papers else ""),
        "",
        "| " + " | ".join(["row", *columns]) + " |",
        "|" + "---|" * (1 + len(columns)),
        *("| " + " | ".join([*cells, *_paper_cells(row, papers)]) + " |" for cells, row in rows),
        "",
        *_oracle_lines(table),
        *_contrast_lines(table),
    ]
    return "\n".join(lines)


def _oracle_lines(table: dict[str, Any]) -> list[str]:
    if not table["oracles"]:
        return []
    told = (
        f"{one['corpus']}: words {100 * one['words']:.1f}, prosody {100 * one['prosody']:.1f}, "
        f"both {100 * one['both']:.1f}"
        for one in table["oracles"]
    )
    return [f"Oracles, the UAR of who knows how words, prosody or both were drawn: {'; '.join(told)}.", ""]


def _contrast_lines(table: dict[str, Any]) -> list[str]:
    if not table["contrasts"]:
        return []
    header = ["paired difference, points", *(metric_title(name) for name in _contrast_columns(table))]
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(cells) + " |" for cells in _contrast_cells(table, "title")),
        "",
    ]


def write_section(path: Path, folder: Path) -> None:
    """Writes a table's section anew between its two markers in a Markdown file; the rest stays."""
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    begin, end = f"<!-- begin {folder.name} -->", f"<!-- end {folder.name} -->"
    text = path.read_text(encoding="utf-8") if path.is_file() else "# Results\n\n"
    section = f"{begin}\n{markdown(table)}\n{end}"
    if begin in text and end in text:
        before, after = text.split(begin, 1)[0], text.split(end, 1)[1]
        atomic_write(path, before + section + after)
    else:
        atomic_write(path, text.rstrip() + "\n\n" + section + "\n")
