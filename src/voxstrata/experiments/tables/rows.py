"""Rows of a table from the predictions of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from voxstrata.errors import RecipeError
from voxstrata.evaluation.score import score
from voxstrata.experiments.tables.plan import PlannedRun
from voxstrata.experiments.tables.sweeps import best, told
from voxstrata.experiments.tables.table import RowSpec, Scale, Table
from voxstrata.predictions import Prediction, read_predictions

#: Parts of a score that a column may come from.
TASKS = ("emotion", "transcript", "dimensions")


@dataclass(frozen=True)
class Row:
    """A row and what stands behind it.

    Args:
        spec: as the table names it.
        title: with what was chosen on dev, and the variant.
        variant: what tells a variant of the scale from the others; "" where there is one only.
        runs: of all seeds and folds; of a grid those of the chosen setting.
        tried: what each setting of a grid reached on dev; None where there is no grid.
    """

    spec: RowSpec
    title: str
    variant: str
    runs: list[PlannedRun]
    tried: list[dict[str, Any]] | None

    @property
    def predictions(self) -> dict[str, Prediction]:
        """Of all seeds, folds and parts, by ids that tell them apart."""
        return {row.id: row for row in _pooled(_by_seed(self.runs))}

    def as_dict(self, columns: tuple[str, ...], seeds: int) -> dict[str, Any]:
        """For JSON, with scores."""
        return {
            "name": self.spec.run,
            "title": self.title,
            "tried_on_dev": self.tried,
            "runs": [str(Path("../..") / run.folder.path.name) for run in self.runs],
            "seeds": seeds,
            "metrics": _pooled_metrics(self.runs, columns, self.spec.normalizer),
            "paper": self.spec.paper or None,
        }


def rows_of(table: Table, scale: Scale, planned: Sequence[PlannedRun], variant: str = "") -> list[Row]:
    """The rows of a scale whose runs are done, each with the setting that is best on dev.

    Args:
        table: whose rows.
        scale: one of its scales, or a variant of it.
        planned: the scale's runs.
        variant: what tells it from other variants, for the titles.

    Raises:
        RecipeError: if a row is chosen by a metric that its runs do not have on dev.
    """
    rows = []
    for row in table.shown(scale):
        members = table.members(scale, row.run)
        dev = _dev_scores(row, members, planned) if len(members) > 1 else [0.0]
        chosen, point = list(members.items())[best(dev, row.choose)]
        tried = [{**other, row.choose: value} for other, value in zip(members.values(), dev, strict=True)]
        title = ", ".join(filter(None, (f"{row.title} ({told(point)})" if point else row.title, variant)))
        runs = [run for run in planned if run.name == chosen]
        rows.append(Row(row, title, variant, runs, tried if len(members) > 1 else None))
    return rows


def _dev_scores(row: RowSpec, members: Iterable[str], planned: Sequence[PlannedRun]) -> list[float]:
    """What each setting of a row's grid reaches on dev."""
    scores = []
    for name in members:
        runs = [run for run in planned if run.name == name]
        metrics = _pooled_metrics(runs, (row.choose,), row.normalizer, "dev")
        if row.choose not in metrics:
            raise RecipeError(
                f"row {row.title!r} is chosen by {row.choose} on dev, which its runs do not have; "
                "choose by what they answer"
            )
        scores.append(float(metrics[row.choose]["value"]))
    return scores


def _by_seed(runs: Sequence[PlannedRun], split: str = "test") -> dict[Any, list[Prediction]]:
    """Predictions of each seed, folds and parts pooled; a run that hangs on neither counts once."""
    by_seed: dict[Any, list[Prediction]] = {}
    for run in {run.folder.path: run for run in runs}.values():
        point = dict(run.point)
        rows = read_predictions(run.folder.predictions(split))
        where = f"{point['$fold']}@{point['$part']}"
        renamed = (replace(row, id=f"{row.id}@{where}") for row in rows)
        by_seed.setdefault(point["$seed"], []).extend(renamed)
    return by_seed


def _pooled(by_seed: dict[Any, list[Prediction]]) -> list[Prediction]:
    return [replace(row, id=f"{row.id}@{seed}") for seed, rows in by_seed.items() for row in rows]


def _pooled_metrics(
    runs: Sequence[PlannedRun], columns: tuple[str, ...], normalizer: str, split: str = "test"
) -> dict[str, Any]:
    """Scores over all points: folds are pooled, the value is the mean over seeds.

    The interval by speaker resamples speakers with all their clips under all seeds; the i.i.d. one is the
    mean over seeds of its bounds, since seeds are no further clips.
    """
    by_seed = _by_seed(runs, split)
    single = [_scores(rows, normalizer) for rows in by_seed.values()]
    pooled = _scores(_pooled(by_seed), normalizer)
    return {
        column: {
            "value": fmean(scores[column]["value"] for scores in single),
            "iid": [fmean(scores[column]["iid"][side] for scores in single) for side in (0, 1)],
            "speaker": pooled[column]["speaker"],
        }
        for column in columns
        if column in pooled
    }


def _scores(rows: list[Prediction], normalizer: str) -> dict[str, Any]:
    scores = score(rows, normalizer=normalizer).as_dict()
    found = {name: score for task in TASKS for name, score in scores.get(task, {}).items()}
    for field, task in scores.get("classes", {}).items():
        found |= {f"{name}_{field}": score for name, score in task.items()}
    return found
