"""A table from the runs that are finished: `table.json` and `report.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from voxstrata.corpora.synthetic.lexicon import Lexicon
from voxstrata.corpora.synthetic.oracle import measure
from voxstrata.errors import RecipeError
from voxstrata.experiments.tables.contrasts import changes_of, contrasts_of
from voxstrata.experiments.tables.corpora import synthesis_options
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.planned_runs import PlannedRun
from voxstrata.experiments.tables.rows import rows_of
from voxstrata.experiments.tables.table import Scale
from voxstrata.runs import write_json


def finished_runs(planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Those of planned runs that are finished, in the folds of which a run of its own is.

    A run that all folds share, such as an expert for words, does not make a fold that has nothing else.
    """
    folds: dict[Path, set[Any]] = {}
    for run in planned:
        folds.setdefault(run.folder.path, set()).add(dict(run.point)["$fold"])
    done = [run for run in planned if run.folder.is_complete]
    there = {dict(run.point)["$fold"] for run in done if len(folds[run.folder.path]) == 1}
    return [run for run in done if not there or dict(run.point)["$fold"] in there]


def write_table(
    chosen: Chosen, planned: Mapping[str, Sequence[PlannedRun]], folder: Path, about: Mapping[str, Any]
) -> None:
    """Writes `table.json` and `report.html` from runs that are finished.

    Args:
        chosen: what is shown.
        planned: variant of the scale -> its runs; rows and folds whose runs are missing read "not run".
        folder: of the table.
        about: date, commit, machine and command.

    Raises:
        RecipeError: if there is no finished run.
    """
    from voxstrata.reporting.page import write_table_report

    if not any(planned.values()):
        raise RecipeError(
            f"no run of {chosen.name} is finished there; name the folder (--out) or the archives (--answers) "
            "that hold them, or train them"
        )
    axes = chosen.piece.axes.items()
    content = {
        "table": Path(chosen.source).stem,
        "title": chosen.table.title,
        "scale": ", ".join([chosen.scale_name, *(f"{axis} {value}" for axis, value in axes)]),
        "command": chosen.command,
        **about,
        "note": chosen.scale.note,
        **_collected(chosen, planned, folder),
        "oracles": _oracles(chosen.variants),
    }
    write_json(folder / "table.json", content)
    write_table_report(folder)


def _collected(chosen: Chosen, planned: Mapping[str, Sequence[PlannedRun]], folder: Path) -> dict[str, Any]:
    """Columns, rows and contrasts of all variants, and how these change."""
    table = chosen.table
    of_variants = {
        title: rows_of(table, variant, planned[title], title) for title, variant in chosen.variants.items()
    }
    rows = [row.as_dict(table.columns, folder) for found in of_variants.values() for row in found]
    contrasts = [one for found in of_variants.values() for one in contrasts_of(table, found)]
    columns = [name for name in table.columns if any(name in row["metrics"] for row in rows)]
    return {
        "columns": columns,
        "all_folds": list(chosen.scale.axes.fold),
        "rows": rows,
        "contrasts": contrasts + changes_of(table, of_variants),
    }


def _oracles(variants: Mapping[str, Scale]) -> list[dict[str, Any]]:
    """Upper bounds on synthetic speech: the UAR of a classifier that knows how its emotions were drawn."""
    found = []
    for title, variant in variants.items():
        for name, spec in variant.corpora.items():
            options = None if spec.synth is None else synthesis_options(name, spec.synth)
            if options is not None and not options.read:
                oracles = measure(options, Lexicon.load())
                found.append({"corpus": ", ".join(filter(None, (name, title))), **asdict(oracles)})
    return found
