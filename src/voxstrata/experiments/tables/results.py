"""A finished table as Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table as RichTable

from voxstrata.reporting.heading import TASKS
from voxstrata.reporting.runs_table import Contrast, Table, TableRow, read_table
from voxstrata.reporting.scores import Score
from voxstrata.reporting.wording import counted, interval, metric_title, percent, percents, points
from voxstrata.runs import atomic_write


def scored(score: Score | None) -> str:
    """A rate with its interval, in percent: by speaker where speakers are known, else by clip.

    >>> scored(Score(value=0.5, iid=(0.4, 0.6), speaker=(0.3, 0.7)))
    '50.0 [30.0, 70.0]'
    """
    return "-" if score is None else f"{percent(score.value)} {interval(score.speaker or score.iid)}"


def cells(row: TableRow, columns: Sequence[str]) -> list[str]:
    """A row's scores, or that it was not run."""
    if not row.finished:
        return ["not run" for _ in columns]
    return [scored(row.metrics.get(column)) for column in columns]


def numbers(values: Sequence[int]) -> str:
    """Whole numbers, those in a row as a range.

    >>> numbers((1, 2, 3, 5)), numbers((1, 2))
    ('1 to 3, 5', '1, 2')
    """
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def rich_table(table: Table) -> RichTable:
    """The rows for a terminal."""
    title = f"{table.title} ({table.scale}): percent, 95 % intervals by speaker"
    shown = RichTable(title=title, box=box.SIMPLE, padding=(0, 1))
    shown.add_column("row")
    for column in table.columns:
        shown.add_column(metric_title(column), justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(_named(row.shown, row.folds, table), *cells(row, table.columns))
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
    """The rows as a Markdown section: date, commit, machine, command, numbers; then those of each fold."""
    papers = [name for name in table.columns if table.has_paper(name)]
    when = [f"{table.date} UTC", *([f"commit {table.commit}"] if table.commit else []), table.machine]
    lines = [
        f"## {table.title}: {table.scale}",
        "",
        *([f"{table.note[:1].upper()}{table.note[1:].rstrip('.')}.", ""] if table.note else []),
        f"`{table.command}`, {', '.join(filter(None, when))}. "
        "Percent, with 95 % intervals by resampling speakers."
        + (" The paper's numbers are of its own data, and no target." if papers else ""),
        "",
        *_part(table, papers),
        *_oracle_lines(table),
    ]
    if len(table.folds) > 1:
        for fold in table.folds:
            lines += [f"### Fold {fold}", "", *_part(table.of_fold(fold), papers)]
    return "\n".join(lines)


def _part(table: Table, papers: Sequence[str]) -> list[str]:
    """What is counted, rows, seeds, differences and warnings, of all folds or one."""
    columns = [*map(metric_title, table.columns), *(f"paper's {metric_title(name)}" for name in papers)]
    rows = [
        [
            _named(row.shown, row.folds, table),
            *cells(row, table.columns),
            *("-" if (number := row.paper_number(name)) is None else f"{number:.2f}" for name in papers),
        ]
        for row in table.rows
    ]
    clips = "; ".join(
        f"{TASKS.get(task, task)}: {counted(one.clips, one.speakers)}" for task, one in table.answered.items()
    )
    folds = numbers(table.folds)
    about = [f"{clips[:1].upper()}{clips[1:]}."] if clips else []
    if len(table.folds) > 1:
        missing = sorted({*table.all_folds} - {*table.folds})
        about += [f"Folds {folds}, pooled" + (f"; not run: {numbers(missing)}." if missing else ".")]
    warned = [f"Read with care: {'; '.join(table.warnings)}.", ""] if table.warnings else []
    return [
        *([" ".join(about), ""] if about else []),
        *grid(["row", *columns], rows),
        *warned,
        *_seed_lines(table),
        *_contrast_lines(table),
    ]


def _named(title: str, folds: Sequence[int], table: Table) -> str:
    """A row's or difference's title, with its folds where these are not all of the table's."""
    return (
        title
        if list(folds) == table.folds or not folds
        else f"{title} (fold{'s' * (len(folds) > 1)} {numbers(folds)})"
    )


def _seed_lines(table: Table) -> list[str]:
    columns = table.seed_columns
    cells = [[row.shown, *(percents(row.by_seed(name)) for name in columns)] for row in table.rows_by_seed]
    return grid(["each seed", *map(metric_title, columns)], cells) if cells else []


def _oracle_lines(table: Table) -> list[str]:
    if not table.oracles:
        return []
    bounds = "; ".join(
        f"{one.corpus}: words {percent(one.words)}, prosody {percent(one.prosody)}, both {percent(one.both)}"
        for one in table.oracles
    )
    return [
        f"Upper bounds, UAR of a classifier that knows how words, prosody or both were drawn: {bounds}.",
        "",
    ]


def _contrast_lines(table: Table) -> list[str]:
    if not table.contrasts:
        return []
    header = ["paired difference, points", *map(metric_title, table.contrast_columns)]
    rows = [[_named(one.title, one.folds, table), *_differences(one, table)] for one in table.contrasts]
    return grid(header, rows)


def _differences(contrast: Contrast, table: Table) -> list[str]:
    found = (contrast.differences.get(column) for column in table.contrast_columns)
    return ["-" if one is None else points(one.difference, one.interval) for one in found]


def grid(header: list[str], rows: list[list[str]]) -> list[str]:
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
    text = path.read_text(encoding="utf-8") if path.is_file() else "# Results\n\n"
    atomic_write(path, with_section(text, folder.name, markdown(read_table(folder))))


def with_section(text: str, name: str, section: str) -> str:
    """A text whose section between the two markers of a name is another; at its end, if it has none.

    >>> print(with_section("before <!-- begin x --> old <!-- end x --> behind", "x", "new"))
    before <!-- begin x -->
    new
    <!-- end x --> behind
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{section}\n{end}" if not section.endswith("\n") else f"{begin}\n{section}{end}"
    if begin in text and end in text:
        return text.split(begin, 1)[0] + section + text.split(end, 1)[1]
    return text.rstrip() + "\n\n" + section + "\n"
