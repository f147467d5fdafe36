"""A finished table as Markdown and for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table as RichTable

from voxstrata.reporting.runs_table import Contrast, Table, read_table
from voxstrata.reporting.scores import Score
from voxstrata.reporting.wording import interval, metric_title, percent, percents, points
from voxstrata.runs import atomic_write


def scored(score: Score | None) -> str:
    """A rate with its interval, in percent: by speaker where speakers are known, else by clip.

    >>> scored(Score(value=0.5, iid=(0.4, 0.6), speaker=(0.3, 0.7)))
    '50.0 [30.0, 70.0]'
    """
    return "-" if score is None else f"{percent(score.value)} {interval(score.speaker or score.iid)}"


def rich_table(table: Table) -> RichTable:
    """The rows for a terminal."""
    title = f"{table.title} ({table.scale}): percent, 95 % intervals by speaker"
    shown = RichTable(title=title, box=box.SIMPLE, padding=(0, 1))
    shown.add_column("row")
    for column in table.columns:
        shown.add_column(metric_title(column), justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(row.shown, *(scored(row.metrics.get(column)) for column in table.columns))
    return shown


def rich_contrasts(table: Table) -> RichTable | None:
    """The paired differences for a terminal; None where the table names none."""
    if not table.contrasts:
        return None
    shown = RichTable(title="paired differences in points", box=box.SIMPLE, padding=(0, 1))
    shown.add_column("runs", no_wrap=True)
    for column in table.contrast_columns:
        shown.add_column(metric_title(column), justify="right", no_wrap=True)
    for contrast in table.contrasts:
        shown.add_row(contrast.name, *_differences(contrast, table))
    return shown


def markdown(table: Table) -> str:
    """The rows as a Markdown section: date, commit, machine, command, numbers."""
    papers = [name for name in table.columns if table.has_paper(name)]
    columns = [*map(metric_title, table.columns), *(f"paper's {metric_title(name)}" for name in papers)]
    rows = [
        [
            row.shown,
            *(scored(row.metrics.get(column)) for column in table.columns),
            *("-" if (number := row.paper_number(name)) is None else f"{number:.2f}" for name in papers),
        ]
        for row in table.rows
    ]
    lines = [
        f"## {table.title}: {table.scale}",
        "",
        *([f"**{table.note}**", ""] if table.note else []),
        f"`{table.command}`, {table.date} UTC, commit {table.commit or 'unknown'}, {table.machine}. "
        "Percent, with 95 % intervals by resampling speakers."
        + (" The paper's numbers are of its own data, and no target." if papers else ""),
        "",
        *_grid(["row", *columns], rows),
        *(f"- To be read with care: {warning}" for warning in table.warnings),
        *([""] if table.warnings else []),
        *_seed_lines(table),
        *_oracle_lines(table),
        *_contrast_lines(table),
    ]
    return "\n".join(lines)


def _seed_lines(table: Table) -> list[str]:
    columns = table.seed_columns
    cells = [[row.shown, *(percents(row.by_seed(name)) for name in columns)] for row in table.rows_by_seed]
    return _grid(["each seed", *map(metric_title, columns)], cells) if cells else []


def _oracle_lines(table: Table) -> list[str]:
    if not table.oracles:
        return []
    told = (
        f"{one.corpus}: words {percent(one.words)}, prosody {percent(one.prosody)}, both {percent(one.both)}"
        for one in table.oracles
    )
    return [f"Oracles, the UAR of who knows how words, prosody or both were drawn: {'; '.join(told)}.", ""]


def _contrast_lines(table: Table) -> list[str]:
    if not table.contrasts:
        return []
    header = ["paired difference, points", *map(metric_title, table.contrast_columns)]
    return _grid(header, [[one.title, *_differences(one, table)] for one in table.contrasts])


def _differences(contrast: Contrast, table: Table) -> list[str]:
    found = (contrast.differences.get(column) for column in table.contrast_columns)
    return ["-" if one is None else points(one.difference, one.interval) for one in found]


def _grid(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table of Markdown with an empty line behind it."""
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(cells) + " |" for cells in rows),
        "",
    ]


def write_section(path: Path, folder: Path) -> None:
    """Writes a table's section anew between its two markers in a Markdown file; the rest stays.

    Args:
        path: the Markdown file; made where it is not there.
        folder: of the table.
    """
    begin, end = f"<!-- begin {folder.name} -->", f"<!-- end {folder.name} -->"
    text = path.read_text(encoding="utf-8") if path.is_file() else "# Results\n\n"
    section = f"{begin}\n{markdown(read_table(folder))}\n{end}"
    if begin in text and end in text:
        before, after = text.split(begin, 1)[0], text.split(end, 1)[1]
        atomic_write(path, before + section + after)
    else:
        atomic_write(path, text.rstrip() + "\n\n" + section + "\n")
