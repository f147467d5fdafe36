"""Rows of a table from the predictions of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxstrata.errors import RecipeError
from voxstrata.evaluation.repeats import score_repeats
from voxstrata.experiments.tables.planned_runs import PlannedRun
from voxstrata.experiments.tables.sweeps import best, told
from voxstrata.experiments.tables.table import RowSpec, Scale, Table
from voxstrata.predictions import Prediction, read_predictions


@dataclass(frozen=True)
class Row:
    """A row and what stands behind it.

    Args:
        spec: as the table names it.
        title: with what was chosen on dev, and the variant.
        variant: what tells a variant of the scale from the others; "" where there is one only.
        runs: of all seeds, folds and parts; of a grid those of the chosen settings.
        tried: what each setting of a grid reached on dev, by fold and part; None where there is no grid.
    """

    spec: RowSpec
    title: str
    variant: str
    runs: list[PlannedRun]
    tried: list[dict[str, Any]] | None

    def beside(self, other: Row) -> list[tuple[list[Prediction], list[Prediction]]]:
        """Answers of this row and of the other to the clips of both, for each seed.

        A run that hangs on no fold or part stands beside each that does; two that hang on none are one pair.
        """
        theirs = {run.point: run for run in other.runs}
        pairs: dict[Any, dict[Any, tuple[PlannedRun, PlannedRun]]] = {}
        for run in self.runs:
            if (beside := theirs.get(run.point)) is not None:
                key = run.folder.path, beside.folder.path
                pairs.setdefault(dict(run.point)["$seed"], {}).setdefault(key, (run, beside))
        found = []
        for of_seed in pairs.values():
            ours, others = (
                {row.id: row for row in _answers(runs)} for runs in zip(*of_seed.values(), strict=True)
            )
            clips = sorted(ours.keys() & others.keys())
            found.append(([ours[clip] for clip in clips], [others[clip] for clip in clips]))
        return found

    def as_dict(self, columns: tuple[str, ...], seeds: int) -> dict[str, Any]:
        """For JSON, with scores."""
        distinct = _distinct(self.runs)
        metrics, warnings = _pooled_metrics(distinct, columns, self.spec.normalizer)
        return {
            "name": self.spec.run,
            "title": self.title,
            "tried_on_dev": self.tried,
            "runs": [str(Path("../..") / run.folder.path.name) for run in distinct],
            "seeds": seeds,
            "metrics": metrics,
            "warnings": list(warnings),
            "paper": self.spec.paper or None,
        }


def rows_of(table: Table, scale: Scale, planned: Sequence[PlannedRun], variant: str = "") -> list[Row]:
    """The rows of a scale whose runs are done, each with the settings that are best on dev.

    A setting is chosen for each fold and part by that fold's own dev speakers: those of all folds together
    are its test speakers too.

    Args:
        table: whose rows.
        scale: one of its scales, or a variant of it.
        planned: the scale's runs.
        variant: what tells it from other variants, for the titles.

    Raises:
        RecipeError: if a row is chosen by a metric that its runs do not have on dev.
    """
    rows = []
    for spec in table.shown(scale):
        members = table.members(scale, spec.run)
        runs, tried, chosen = [], [], []
        known: set[Path] = set()
        for place, at_place in _places(run for run in planned if run.name in members):
            settings = {name: [run for run in at_place if run.name == name] for name in members}
            dev = _dev_scores(spec, settings.values()) if len(members) > 1 else [0.0]
            name = list(members)[best(dev, spec.choose)]
            runs += settings[name]
            chosen.append(told(members[name]))
            if any(run.folder.path not in known for run in at_place):
                tried += [
                    {**place, **point, spec.choose: value}
                    for point, value in zip(members.values(), dev, strict=True)
                ]
            known |= {run.folder.path for run in at_place}
        choice = chosen[0] if len(set(chosen)) == 1 else "chosen for each fold"
        title = ", ".join(filter(None, (f"{spec.title} ({choice})" if choice else spec.title, variant)))
        rows.append(Row(spec, title, variant, runs, tried if len(members) > 1 else None))
    return rows


def _places(runs: Iterable[PlannedRun]) -> list[tuple[dict[str, int], list[PlannedRun]]]:
    """Runs by fold and part, whatever the seed."""
    found: dict[tuple[Any, Any], list[PlannedRun]] = {}
    for run in runs:
        point = dict(run.point)
        found.setdefault((point["$fold"], point["$part"]), []).append(run)
    return [
        ({name: n for name, n in zip(("fold", "part"), place, strict=True) if n is not None}, there)
        for place, there in found.items()
    ]


def _dev_scores(row: RowSpec, settings: Iterable[Sequence[PlannedRun]]) -> list[float]:
    """What each setting of a row's grid reaches on dev."""
    scores = []
    for runs in settings:
        metrics, _ = _pooled_metrics(runs, (row.choose,), row.normalizer, "dev")
        if row.choose not in metrics:
            raise RecipeError(
                f"row {row.title!r} is chosen by {row.choose} on dev, which its runs do not have; "
                "choose by what they answer"
            )
        scores.append(float(metrics[row.choose]["value"]))
    return scores


def _distinct(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    return list({run.folder.path: run for run in runs}.values())


def clip_of(row: str) -> str:
    """The clip behind an id of `_answers`: of several folds and parts it may have several.

    >>> clip_of("a@b@2@None")
    'a@b'
    """
    return row.rsplit("@", 2)[0]


def _answers(runs: Iterable[PlannedRun], split: str = "test") -> list[Prediction]:
    """Of runs of one seed, folds and parts pooled, in the order of ids that tell these apart."""
    found = []
    for run in runs:
        point = dict(run.point)
        where = f"{point['$fold']}@{point['$part']}"
        found += [
            replace(row, id=f"{row.id}@{where}") for row in read_predictions(run.folder.predictions(split))
        ]
    return sorted(found, key=lambda row: row.id)


def _pooled_metrics(
    runs: Sequence[PlannedRun], columns: tuple[str, ...], normalizer: str, split: str = "test"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Scores over all points, folds and parts pooled, means over seeds; and what warns of their intervals."""
    by_seed: dict[Any, list[PlannedRun]] = {}
    for run in runs:
        by_seed.setdefault(dict(run.point)["$seed"], []).append(run)
    found = score_repeats(
        [_answers(of_seed, split) for of_seed in by_seed.values()], normalizer=normalizer, clip_of=clip_of
    )
    metrics = {
        column: {
            **found.metrics[column].as_dict(),
            "by_seed": list(found.of_each[column]) if len(by_seed) > 1 else [],
        }
        for column in columns
        if column in found.metrics
    }
    return metrics, found.warnings
