"""Rows of a table from the predictions of its runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxstrata.errors import RecipeError
from voxstrata.evaluation.repeats import score_repeats
from voxstrata.evaluation.tasks import tasks_in
from voxstrata.experiments.tables.planned_runs import PlannedRun
from voxstrata.experiments.tables.table import RowSpec, Scale, Table
from voxstrata.predictions import Prediction, read_predictions

#: Metrics of which less is better.
ERRORS = ("wer", "cer")


@dataclass(frozen=True)
class Row:
    """A row and what stands behind it.

    Args:
        spec: as the table names it.
        title: with what was chosen on dev, and the variant.
        variant: what tells a variant of the scale from the others; "" where there is one only.
        runs: of all seeds, folds and parts; of a grid those of the chosen settings. Empty: not run.
        tried: what each setting of a grid reached on dev, by fold and part; None where there is no grid.
    """

    spec: RowSpec
    title: str
    variant: str
    runs: list[PlannedRun]
    tried: list[dict[str, Any]] | None

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds whose runs are there, in order."""
        return tuple(sorted({fold for run in self.runs if (fold := dict(run.point)["$fold"]) is not None}))

    def at(self, fold: int) -> Row:
        """The row with the runs of one fold."""
        return replace(self, runs=[run for run in self.runs if dict(run.point)["$fold"] == fold])

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

    def as_dict(self, columns: tuple[str, ...], folder: Path) -> dict[str, Any]:
        """For JSON, with scores over all folds and of each.

        Args:
            columns: metrics.
            folder: of the table, from which its runs are named.
        """
        distinct, folds = _distinct(self.runs), self.folds
        whole = _scored(distinct, columns, self.spec.normalizer)
        return {
            "name": self.spec.run,
            "title": self.title,
            "finished": bool(self.runs),
            "tried_on_dev": self.tried,
            "runs": [os.path.relpath(run.folder.path, folder) for run in distinct],
            "seeds": len({dict(run.point)["$seed"] for run in self.runs}),
            **whole,
            "folds": list(folds),
            "by_fold": {
                str(fold): _scored(_distinct(self.at(fold).runs), columns, self.spec.normalizer)
                if len(folds) > 1
                else whole
                for fold in folds
            },
            "paper": self.spec.paper or None,
        }


def rows_of(table: Table, scale: Scale, planned: Sequence[PlannedRun], variant: str = "") -> list[Row]:
    """The rows of a scale, each with the settings that are best on dev.

    A setting is chosen for each fold and part by that fold's own dev speakers: those of all folds together
    are its test speakers too.

    Args:
        table: whose rows.
        scale: one of its scales, or a variant of it.
        planned: the scale's runs that are done; a row lacks what is not.
        variant: what tells it from other variants, for the titles.

    Raises:
        RecipeError: if a row is chosen by a metric that its runs do not have on dev.
    """
    rows = []
    for spec in table.shown(scale):
        members = table.members(scale, spec.run)
        runs, tried, chosen = [], [], []
        known: set[Path] = set()
        for place, at_place in _places(_rectangle([run for run in planned if run.name in members])):
            settings = {name: [run for run in at_place if run.name == name] for name in members}
            if not all(settings.values()):
                continue
            dev = _dev_scores(spec, settings.values()) if len(members) > 1 else [0.0]
            name = list(members)[best(dev, spec.choose)]
            runs += settings[name]
            chosen.append(described(members[name]))
            if any(run.folder.path not in known for run in at_place):
                tried += [
                    {**place, **point, spec.choose: value}
                    for point, value in zip(members.values(), dev, strict=True)
                ]
            known |= {run.folder.path for run in at_place}
        choice = "chosen for each fold" if len(set(chosen)) > 1 else "".join(chosen[:1])
        title = ", ".join(filter(None, (f"{spec.title} ({choice})" if choice else spec.title, variant)))
        rows.append(Row(spec, title, variant, runs, tried if len(members) > 1 else None))
    return rows


def described(point: Mapping[str, Any]) -> str:
    """A point for the eye.

    >>> described({"asr_weight": 0.3, "rates.encoder": 1e-05})
    'asr_weight 0.3, rates.encoder 1e-05'
    """
    return ", ".join(f"{key} {value}" for key, value in point.items())


def best(scores: Sequence[float], metric: str) -> int:
    """Index of the best score of a metric, the first of equal ones.

    >>> best([0.2, 0.4, 0.4], "uar"), best([0.2, 0.4, 0.4], "wer")
    (1, 0)
    """
    sign = -1 if metric in ERRORS else 1
    return max(range(len(scores)), key=lambda index: (sign * scores[index], -index))


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


def _rectangle(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs of seeds that have the same folds and parts, so that means over seeds are of the same clips.

    The first seed with the most folds and parts, and those that have as many; others are left out.
    """
    places: dict[Any, set[tuple[Any, Any]]] = {}
    for run in runs:
        point = dict(run.point)
        places.setdefault(point["$seed"], set()).add((point["$fold"], point["$part"]))
    most = max(places.values(), key=len, default=set())
    kept = [seed for seed, there in places.items() if there == most]
    return [run for run in runs if dict(run.point)["$seed"] in kept]


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


def _scored(runs: Sequence[PlannedRun], columns: tuple[str, ...], normalizer: str) -> dict[str, Any]:
    """Metrics, warnings and how many clips of how many speakers answer each task; all empty without runs."""
    if not runs:
        return {"metrics": {}, "warnings": [], "answered": {}}
    metrics, warnings = _pooled_metrics(runs, columns, normalizer)
    first = [run for run in runs if dict(run.point)["$seed"] == dict(runs[0].point)["$seed"]]
    answered = {
        task: {"clips": len(set(map(clip_of, found.ids))), "speakers": len({*found.speakers} - {None})}
        for task, found in tasks_in(_answers(first)).by_name.items()
    }
    return {"metrics": metrics, "warnings": list(warnings), "answered": answered}


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
