"""Figures of a table of runs: intervals of every row, and coefficients of several rows over each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from voxstrata.reporting.coefficients import Coefficients
from voxstrata.reporting.drawing import GRID, INK, PALETTE, Drawing, canvas, label, legend_below, to_svg
from voxstrata.reporting.figures import (
    MARKERS,
    coefficient_limits,
    coefficient_range,
    init_lines,
    layer_axis,
    slug,
)
from voxstrata.reporting.scores import Score
from voxstrata.reporting.wording import about_metric, metric_title, sentence


@dataclass(frozen=True)
class ForestRow:
    """A row of a forest plot: our score and the paper's number in percent, either may be absent."""

    title: str
    score: Score | None
    paper: float | None = None


@dataclass(frozen=True)
class LayerCurve:
    """Coefficients of one row of the table (mean over its runs) for one vector, layers 0..L."""

    row: str
    vector: str
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    start: float


def layer_curves(row: str, runs: Sequence[Coefficients]) -> list[LayerCurve]:
    """Mean and range over runs, one curve a vector; the runs must have the same vectors and layers."""
    curves = []
    for vector in runs[0].vectors:
        layers = list(zip(*(run.column(vector) for run in runs), strict=True))
        curves.append(
            LayerCurve(
                row,
                vector,
                tuple(sum(values) / len(values) for values in layers),
                tuple(map(min, layers)),
                tuple(map(max, layers)),
                runs[0].starts[vector],
            )
        )
    return curves


def overlay_figure(curves: Sequence[LayerCurve]) -> Drawing:
    """Coefficient lambda against layer for several rows (as figure 2 of arXiv 2603.25041).

    Colour tells the vector, line and marker tell the row.
    """
    vectors = list(dict.fromkeys(curve.vector for curve in curves))
    rows = list(dict.fromkeys(curve.row for curve in curves))
    last = max(len(curve.mean) for curve in curves) - 1
    starts = [curve.start for curve in curves]
    with canvas(9.0, 4.0) as (figure, axes):
        init_lines(axes, starts)
        for curve in curves:
            color = PALETTE[vectors.index(curve.vector) % len(PALETTE)]
            style = rows.index(curve.row)
            layers = range(len(curve.mean))
            if curve.low != curve.high:
                axes.fill_between(layers, curve.low, curve.high, color=color, alpha=0.12, linewidth=0)
            axes.plot(
                layers,
                curve.mean,
                color=color,
                linestyle=("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))[style % 4],
                marker=MARKERS[style % len(MARKERS)],
                markerfacecolor=color if style == 0 else "white",
                label=f"{label(curve.row, 32)}: {label(curve.vector, 16)}",
            )
        axes.set_ylim(*coefficient_limits([v for c in curves for v in (*c.low, *c.high)], starts))
        layer_axis(axes, 0, last)
        axes.set_ylabel("coefficient λ")
        axes.grid(axis="y", color=GRID)
        legend_below(figure, axes, 3)
        svg = to_svg(figure)
    words = "; ".join(f"{c.row}, {coefficient_range(c.vector, list(c.mean))}" for c in curves)
    return Drawing(
        name="coefficients",
        title="Coefficients per layer, rows over each other",
        alt=f"Line chart of the coefficients of {len(rows)} rows against layer 0 to {last}. {words}.",
        caption="Colour: task vector; line and marker: row. Bands, where a row has several runs, "
        "run from lowest to highest. The same view as figure 2 of the AdaLTM paper.",
        svg=svg,
        header=("row", "vector", "layer", "mean", "low", "high"),
        rows=tuple(
            (curve.row, curve.vector, layer, *values)
            for curve in curves
            for layer, values in enumerate(zip(curve.mean, curve.low, curve.high, strict=True))
        ),
        wide=True,
    )


def forest_figure(metric: str, rows: Sequence[ForestRow]) -> Drawing:
    """Scores of all rows with both intervals; the paper's numbers beside them, marked as such.

    Rows with neither are left out.
    """
    title = metric_title(metric)
    rows = [row for row in rows if row.score or row.paper is not None]
    theirs = (
        " Diamonds: the paper's numbers, on the paper's data."
        if any(r.paper is not None for r in rows)
        else ""
    )
    with canvas(4.6, 1.4 + 0.34 * len(rows)) as (figure, axes):
        seen: set[str] = set()

        def once(name: str) -> str:
            """A legend entry the first time, none after."""
            entry = name if name not in seen else "_"
            seen.add(name)
            return entry

        for y, row in enumerate(rows):
            if row.score:
                _draw_score(axes, y, row.score, once)
            if row.paper is not None:
                _draw_paper(axes, y, row.paper, once)
        axes.set_yticks(range(len(rows)), [label(row.title) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{title} in %")
        axes.grid(axis="x", color=GRID)
        legend_below(figure, axes, 2)
        svg = to_svg(figure)
    words = "; ".join(
        f"{row.title}: "
        + (sentence(row.score) if row.score else "no number")
        + (f", the paper's number {row.paper:g} %" if row.paper is not None else "")
        for row in rows
    )
    return Drawing(
        name=f"forest-{slug(metric)}",
        title=title,
        alt=f"Forest plot of {title}. {words}.",
        caption=f"{about_metric(metric)} Intervals of 95 %; thick: by clip; thin: by speaker.{theirs}",
        svg=svg,
        header=("row", "value", "iid_low", "iid_high", "speaker_low", "speaker_high", "paper_percent"),
        rows=tuple(_numbers(row) for row in rows),
    )


def _draw_score(axes: Axes, y: int, score: Score, once: Callable[[str], str]) -> None:
    for bounds, width, color, name in (
        (score.speaker, 1.2, INK, "95 % by speaker"),
        (score.iid, 5.0, PALETTE[5], "95 % by clip"),
    ):
        if bounds:
            axes.plot(
                [100 * bounds[0], 100 * bounds[1]],
                [y, y],
                color=color,
                linewidth=width,
                solid_capstyle="butt",
                label=once(name),
                zorder=2 if color == INK else 1,
            )
    axes.plot([100 * score.value], [y], "o", color=PALETTE[0], markersize=6, label=once("ours"), zorder=3)


def _draw_paper(axes: Axes, y: int, paper: float, once: Callable[[str], str]) -> None:
    axes.plot(
        [paper],
        [y],
        "D",
        markerfacecolor="white",
        markeredgecolor=PALETTE[1],
        markersize=5.5,
        markeredgewidth=1.3,
        label=once("paper's number"),
        zorder=3,
    )


def _numbers(row: ForestRow) -> tuple[str | float | None, ...]:
    score = row.score
    if score is None:
        return (row.title, None, None, None, None, None, row.paper)
    return (row.title, score.value, *(score.iid or (None, None)), *(score.speaker or (None, None)), row.paper)
