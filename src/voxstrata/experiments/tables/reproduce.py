"""Runs a table: corpora, then every run in topological order, then rows with intervals.

A run's folder is keyed by the hash of its resolved recipe, with its parents' keys and its corpora's and
base's fingerprints in the place of paths: what is done is never done twice, and a change re-runs only
what hangs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import RecipeError
from voxstrata.evaluation.score import score
from voxstrata.experiments.build import Say, planned_steps
from voxstrata.experiments.parents import experts_of
from voxstrata.experiments.provenance import commit, machine, now
from voxstrata.experiments.run import execute
from voxstrata.experiments.sources import build_sources
from voxstrata.experiments.tables.corpora import prepare_corpus
from voxstrata.experiments.tables.sweeps import best, told
from voxstrata.experiments.tables.table import (
    RowSpec,
    Scale,
    Table,
    content_key,
    order,
    points,
    run_values,
    substitute,
)
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.recipes.reading import validate
from voxstrata.recipes.schema.any_recipe import AnyRecipe
from voxstrata.recipes.schema.recipe import BaseRecipe
from voxstrata.runs import RunFolder, folder_lock, write_json
from voxstrata.training.options import Progress


@dataclass(frozen=True)
class PlannedRun:
    """One run at one point of the axes."""

    name: str
    recipe: AnyRecipe
    folder: RunFolder
    point: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Tick:
    """Progress of a whole table.

    Args:
        done: steps done, over all runs.
        total: steps of all runs.
        run: what runs now.
        detail: its loss, for the eye.
    """

    done: int
    total: int
    run: str
    detail: str = ""


def plan(table: Table, scale: Scale, corpora: dict[str, PreparedCorpus], out: Path) -> list[PlannedRun]:
    """All runs of a scale, parents before children, each with its folder.

    Raises:
        RecipeError: for a recipe that does not hold.
    """
    paths = {f"$corpus.{name}": str(corpus.folder) for name, corpus in corpora.items()}
    prints = {f"$corpus.{name}": corpus.fingerprint for name, corpus in corpora.items()}
    planned = []
    for point in points(scale.axes):
        known, keys = dict(paths | point), dict(prints | point)
        for name in order(table, scale):
            values = run_values(table, scale, name)
            recipe = validate(substitute(values, known), f"run {name}")
            keyed = substitute(values, keys)
            key = content_key(_identity(validate(keyed, f"run {name}"), recipe))
            folder = RunFolder(out / f"{name}-{key}")
            known[f"$run.{name}"], keys[f"$run.{name}"] = str(folder.path), key
            planned.append(PlannedRun(name, recipe, folder, tuple(point.items())))
    return planned


def _identity(keyed: AnyRecipe, recipe: AnyRecipe) -> dict[str, Any]:
    """A recipe whose encoders are named by the hash of their weights (references are hashes already)."""
    # What is allowed changes no result.
    values = keyed.model_dump(mode="json", exclude={"allow_leaks"})
    if isinstance(keyed, BaseRecipe) and isinstance(recipe, BaseRecipe) and keyed.base == recipe.base:
        values["base"] = _weights_hash(recipe.base, recipe.architecture)
    values.pop("cache_gb", None)  # decides what is computed twice, not what comes out
    for name, source in experts_of(keyed).items():
        kind = next((kind for kind in ("vectors", "experts") if kind in values), None)
        if kind is not None and source == experts_of(recipe)[name]:
            values[kind][name] = _weights_hash(source)
    return values


#: Parts of a score that a column may come from.
TASKS = ("emotion", "transcript", "dimensions")


@cache
def _weights_hash(source: str, architecture: str | None = None) -> str:
    return fingerprint(load_backbone(source, architecture=architecture).weights())


def reproduce(
    table: Table,
    name: str,
    scale_name: str,
    *,
    out: Path,
    data: Path | None,
    say: Say,
    tick: Callable[[Tick], None],
) -> Path:
    """Runs what is not done yet and writes `tables/NAME-SCALE/` with `table.json` and `report.html`.

    Args:
        table: what to run.
        name: its name.
        scale_name: one of its scales.
        out: folder for runs, corpora and tables.
        data: root of the corpora's folders, for scales on real recordings.
        say: receives lines for the user.
        tick: receives progress over the whole table.

    Returns:
        The table's folder.
    """
    from voxstrata.reporting.page import write_table_report

    scale = table.scale(scale_name)
    planned = plan(table, scale, _corpora(scale, out, data, say, tick), out)
    _execute_all(planned, say, tick)
    folder = out / "tables" / f"{name}-{scale_name}"
    write_json(folder / "table.json", _collect(table, scale, name, scale_name, planned, folder))
    write_table_report(folder)
    return folder


def train_part(
    table: Table,
    scale: Scale,
    *,
    out: Path,
    data: Path | None,
    say: Say,
    tick: Callable[[Tick], None],
) -> list[Path]:
    """Trains the rows of a `narrowed` scale and what they need; other processes may do other parts.

    What another process is just doing is waited for. No table is written: `reproduce` does that in the end.

    Args:
        table: what to run.
        scale: a part of one of its scales.
        out: folder for runs and corpora, the same for all parts.
        data: root of the corpora's folders, for scales on real recordings.
        say: receives lines for the user.
        tick: receives progress over the part.

    Returns:
        The run folders of the rows.
    """
    planned = plan(table, scale, _corpora(scale, out, data, say, tick), out)
    _execute_all(planned, say, tick, patient=True)
    shown = {member for row in table.shown(scale) for member in table.members(scale, row.run)}
    return list(dict.fromkeys(run.folder.path for run in planned if run.name in shown))


def _corpora(
    scale: Scale, out: Path, data: Path | None, say: Say, tick: Callable[[Tick], None]
) -> dict[str, PreparedCorpus]:
    """The prepared corpora of a scale; several processes that need them prepare them once."""
    with folder_lock(out / "corpora", waiting=say):
        return {
            corpus: prepare_corpus(
                corpus, spec, out / "corpora", data, lambda what, done, total: tick(Tick(done, total, what))
            )
            for corpus, spec in scale.corpora.items()
        }


def _execute_all(
    planned: list[PlannedRun], say: Say, tick: Callable[[Tick], None], *, patient: bool = False
) -> None:
    distinct = {run.folder.path: run for run in planned}
    open_runs = [run for run in distinct.values() if not run.folder.is_complete]
    steps = {run.folder.path: planned_steps(run.recipe, build_sources(run.recipe)) for run in open_runs}
    total, done = sum(steps.values()), 0
    for run in open_runs:
        start = done

        def progress(now: Progress, start: int = start, run: PlannedRun = run) -> None:
            tick(Tick(start + now.step, total, run.folder.path.name, f"loss {now.loss:.3f}"))

        tick(Tick(done, total, run.folder.path.name))
        execute(
            run.recipe,
            run.folder,
            keyed=True,
            patient=patient,
            say=partial(_prefixed, say, run.name),
            progress=progress,
        )
        done = start + steps[run.folder.path]
        tick(Tick(done, total, run.folder.path.name))


def _prefixed(say: Say, name: str, line: str) -> None:
    say(f"{name}: {line}")


def _collect(
    table: Table, scale: Scale, name: str, scale_name: str, planned: list[PlannedRun], folder: Path
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for row in table.shown(scale):
        members = table.members(scale, row.run)
        dev = _dev_scores(row, members, planned) if len(members) > 1 else [0.0]
        chosen, point = list(members.items())[best(dev, row.choose)]
        runs = [run for run in planned if run.name == chosen]
        tried = [{**other, row.choose: value} for other, value in zip(members.values(), dev, strict=True)]
        rows.append(
            {
                "name": row.run,
                "title": f"{row.title} ({told(point)})" if point else row.title,
                "tried_on_dev": tried if len(members) > 1 else None,
                "runs": [str(Path("../..") / run.folder.path.name) for run in runs],
                "seeds": len(scale.axes.seed),
                "metrics": _pooled_metrics(runs, table.columns),
                "paper": row.paper or None,
            }
        )
    return {
        "table": name,
        "title": table.title,
        "scale": scale_name,
        "date": now(),
        "commit": commit(),
        "machine": machine(),
        "note": scale.note,
        "columns": [name for name in table.columns if any(name in row["metrics"] for row in rows)],
        "rows": rows,
    }


def _dev_scores(row: RowSpec, members: Iterable[str], planned: list[PlannedRun]) -> list[float]:
    """What each setting of a row's grid reaches on dev."""
    scores = []
    for name in members:
        runs = [run for run in planned if run.name == name]
        metrics = _pooled_metrics(runs, (row.choose,), "dev")
        if row.choose not in metrics:
            raise RecipeError(
                f"row {row.title!r} is chosen by {row.choose} on dev, which its runs do not have; "
                "choose by what they answer"
            )
        scores.append(float(metrics[row.choose]["value"]))
    return scores


def _pooled_metrics(runs: list[PlannedRun], columns: tuple[str, ...], split: str = "test") -> dict[str, Any]:
    """Scores over all points: folds are pooled, the value is the mean over seeds.

    The interval by speaker resamples speakers with all their clips under all seeds; the i.i.d. one is the
    mean over seeds of its bounds, since seeds are no further clips.
    """
    by_seed: dict[Any, list[Prediction]] = {}
    for run in {run.folder.path: run for run in runs}.values():
        point = dict(run.point)
        rows = read_predictions(run.folder.predictions(split))
        renamed = (replace(row, id=f"{row.id}@{point['$fold']}") for row in rows)
        by_seed.setdefault(point["$seed"], []).extend(renamed)
    single = [_scores(rows) for rows in by_seed.values()]
    pooled = _scores([replace(row, id=f"{row.id}@{seed}") for seed, rows in by_seed.items() for row in rows])
    return {
        column: {
            "value": fmean(scores[column]["value"] for scores in single),
            "iid": [fmean(scores[column]["iid"][side] for scores in single) for side in (0, 1)],
            "speaker": pooled[column]["speaker"],
        }
        for column in columns
        if column in pooled
    }


def _scores(rows: list[Prediction]) -> dict[str, Any]:
    scores = score(rows).as_dict()
    found = {name: score for task in TASKS for name, score in scores.get(task, {}).items()}
    for field, task in scores.get("classes", {}).items():
        found |= {f"{name}_{field}": score for name, score in task.items()}
    return found
