"""The pages: one HTML file each, that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voxstrata.reporting.contents import read_run
from voxstrata.reporting.contrasts import contrast_figure
from voxstrata.reporting.drawing import laid_out
from voxstrata.reporting.fold_figures import EMOTIONS, WORDS, fold_difference_figure, trade_off_figure
from voxstrata.reporting.forest import ForestRow, forest_figure, overlay_figure
from voxstrata.reporting.runs_table import read_table, table_curves
from voxstrata.reporting.sections import (
    leak_lines,
    model_drawings,
    progress,
    provenance_rows,
    split_section,
    training_drawings,
)
from voxstrata.reporting.wording import cell, interval, metric_title, percent, percents, points
from voxstrata.runs import RunFolder, atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment


def write_report(run: RunFolder) -> Path:
    """Writes `report.html` and `figures/*.svg` with `*.csv` into a run folder.

    The same run gives the same bytes.

    Returns:
        the path of the page.

    Raises:
        VoxstrataError: if it is no run folder, or holds a file that cannot be read.
    """
    contents = read_run(run)
    sections = [split_section(contents, split) for split in contents.splits]
    model, training = model_drawings(contents), training_drawings(contents)
    answered = [drawing for section in sections for part in section.parts for drawing in part.drawings]
    for drawing in [*model, *training, *answered]:
        drawing.save(run.figures)
    page = _templates().get_template("run.html.j2")
    html = page.render(
        run=contents,
        progress=progress(contents),
        sections=sections,
        model=model,
        training=training,
        leaks=leak_lines(contents),
        provenance=provenance_rows(contents.provenance),
    )
    atomic_write(run.report, html)
    return run.report


def write_table_report(folder: Path) -> Path:
    """Writes `report.html` and `figures/*.svg` with `*.csv` into a table folder (`table.json`).

    Returns:
        the path of the page.

    Raises:
        VoxstrataError: if the folder has no readable `table.json`, or its runs do not fit together.
    """
    table = read_table(folder)
    forests = [
        forest_figure(
            column,
            [ForestRow(row.shown, row.metrics.get(column), row.paper_number(column)) for row in table.rows],
        )
        for column in table.columns
        if any(row.metrics.get(column) or row.paper_number(column) is not None for row in table.rows)
    ]
    contrasts = [contrast_figure(column, table.contrasts) for column in table.contrast_columns]
    trade_off = trade_off_figure(table)
    forests += [trade_off] if trade_off else []
    by_fold = [one for one in table.contrasts if one.by_fold and len(table.folds) > 1]
    shown = [name for name in (EMOTIONS, WORDS) if any(name in one.differences for one in by_fold)]
    contrasts += [fold_difference_figure(by_fold, shown)] if shown else []
    curves = table_curves(folder, table)
    overlays = [overlay_figure(curves)] if curves else []
    target = RunFolder(folder)
    for drawing in [*forests, *contrasts, *overlays]:
        drawing.save(target.figures)
    page = _templates().get_template("table.html.j2")
    html = page.render(
        table=table,
        paper_columns=[column for column in table.columns if table.has_paper(column)],
        forests=forests,
        contrasts=contrasts,
        overlays=overlays,
    )
    atomic_write(target.report, html)
    return target.report


def _templates() -> Environment:
    """Templates with everything escaped; a name they lack is an error, not an empty string."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("voxstrata.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        percent=percent,
        percents=percents,
        interval=interval,
        cell=cell,
        laid_out=laid_out,
        metric_title=metric_title,
        points=points,
    )
    return templates
