"""Paired differences between rows of a table, and how they change from one lexical strength to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.comparison import Difference, compare, compare_changes
from voxstrata.experiments.tables.rows import Row
from voxstrata.experiments.tables.table import ContrastSpec, Table
from voxstrata.predictions import Prediction


def contrasts_of(table: Table, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table's paired differences between rows that are there: `run` less `over`, on the clips of both.

    Clips of all folds and seeds are pooled, and speakers are resampled with all of theirs. Rows that answer
    no clip or no task in common have no differences, and their title says why.
    """
    found = []
    for spec, row, over in _paired(table, rows):
        title = f"{row.title}, less {over.spec.title}"
        less, more = _shared(row, over)
        try:
            compared = compare(less, more, normalizer=row.spec.normalizer)
        except PredictionsError as fault:
            found.append(_told(table, spec, row.variant, f"{title}: not compared ({fault})", len(more), {}))
        else:
            found.append(_told(table, spec, row.variant, title, compared.clips, compared.differences))
    return found


def changes_of(table: Table, rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """How each paired difference changes from the first variant of a scale to the last.

    Args:
        table: whose contrasts.
        rows: variant -> its rows; nothing is told of one variant alone.
    """
    first, last = next(iter(rows)), next(reversed(list(rows)))
    if first == last:
        return []
    found = []
    for (spec, *before), (_, *after) in zip(
        _paired(table, rows[first]), _paired(table, rows[last]), strict=True
    ):
        shared = _shared(*before), _shared(*after)
        changes = compare_changes(*shared, normalizer=before[0].spec.normalizer)
        title = f"{before[0].spec.title}, less {before[1].spec.title}: {last}, less {first}"
        clips = sum(len(less) for less, _ in shared)
        found.append(_told(table, spec, f"{last}, less {first}", title, clips, changes))
    return found


def _paired(table: Table, rows: Sequence[Row]) -> list[tuple[ContrastSpec, Row, Row]]:
    """The contrasts whose two rows are there."""
    there = {row.spec.run: row for row in rows}
    return [
        (spec, there[spec.run], there[spec.over])
        for spec in table.contrasts
        if spec.run in there and spec.over in there
    ]


def _shared(row: Row, over: Row) -> tuple[list[Prediction], list[Prediction]]:
    """Answers of `over` and of `row` to the clips of both."""
    of_row, of_over = row.beside(over)
    clips = [clip for clip in of_row if clip in of_over]
    return [of_over[clip] for clip in clips], [of_row[clip] for clip in clips]


def _told(
    table: Table,
    spec: ContrastSpec,
    variant: str,
    title: str,
    clips: int,
    differences: Mapping[str, Difference],
) -> dict[str, Any]:
    """For JSON, with the table's columns."""
    return {
        "run": spec.run,
        "over": spec.over,
        "name": ", ".join(filter(None, (f"{spec.run} - {spec.over}", variant))),
        "title": title,
        "clips": clips,
        "differences": {
            column: differences[column].as_dict() for column in table.columns if column in differences
        },
    }
