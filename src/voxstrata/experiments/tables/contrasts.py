"""Paired differences between rows of a table, and how they change from one lexical strength to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.comparison import NOTHING, Difference, compare_repeats
from voxstrata.experiments.tables.rows import Row, clip_of
from voxstrata.experiments.tables.table import ContrastSpec, Table


def contrasts_of(table: Table, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table's paired differences between rows that are there: `run` less `over`, on the clips of both.

    Folds are pooled, and the difference is the mean over seeds; speakers are resampled with all of theirs.
    Rows that answer no clip or no task in common have no differences, and their title says why.
    """
    found = []
    for spec, row, over in _paired(table, rows):
        folds = sorted({*row.folds} & {*over.folds})
        title = f"{row.title}, less {over.spec.title}"
        whole = _compared(table, spec, row.variant, title, [(row, over)])
        by_fold = {
            str(fold): _compared(table, spec, "", "", [(row.at(fold), over.at(fold))])["differences"]
            if len(folds) > 1
            else whole["differences"]
            for fold in folds
            if whole["differences"]
        }
        found.append({**whole, "folds": folds, "by_fold": by_fold})
    return found


def changes_of(table: Table, rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """How each paired difference changes from the first variant of a scale to the last.

    Args:
        table: whose contrasts.
        rows: variant -> its rows; one variant alone has no change.
    """
    first, last = next(iter(rows)), next(reversed(list(rows)))
    if first == last:
        return []
    change = f"{last}, less {first}"
    return [
        _compared(
            table, spec, change, f"{row.spec.title}, less {over.spec.title}: {change}", [(row, over), after]
        )
        for (spec, row, over), (_, *after) in zip(
            _paired(table, rows[first]), _paired(table, rows[last]), strict=True
        )
    ]


def _paired(table: Table, rows: Sequence[Row]) -> list[tuple[ContrastSpec, Row, Row]]:
    """The contrasts whose two rows are there."""
    there = {row.spec.run: row for row in rows}
    return [
        (spec, there[spec.run], there[spec.over])
        for spec in table.contrasts
        if spec.run in there and spec.over in there
    ]


def _compared(
    table: Table, spec: ContrastSpec, variant: str, title: str, conditions: Sequence[Sequence[Row]]
) -> dict[str, Any]:
    """For JSON, with the table's columns; two conditions: the second difference less the first."""
    shared = [[(less, more) for more, less in row.beside(over)] for row, over in conditions]
    differences: Mapping[str, Difference] = {}
    if not all(row.runs for rows in conditions for row in rows):
        title = f"{title}: not run"
    else:
        try:
            if all(shared):
                normalizer = conditions[0][0].spec.normalizer
                differences = compare_repeats(*shared, normalizer=normalizer, clip_of=clip_of)
            if not differences:
                raise PredictionsError(NOTHING)
        except PredictionsError as fault:
            title = f"{title}: not compared ({fault})"
    return {
        "run": spec.run,
        "over": spec.over,
        "name": ", ".join(filter(None, (f"{spec.run} - {spec.over}", variant))),
        "title": title,
        "clips": max((found.clips for found in differences.values()), default=0),
        "differences": {
            column: differences[column].as_dict() for column in table.columns if column in differences
        },
    }
