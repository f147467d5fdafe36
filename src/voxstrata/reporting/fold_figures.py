"""Figures of a table over several folds: words against emotions, and paired differences fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from voxstrata.reporting.drawing import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    Drawing,
    canvas,
    label,
    legend_below,
    panels,
    to_svg,
)
from voxstrata.reporting.figures import MARKERS
from voxstrata.reporting.runs_table import Contrast, Difference, Table, TableRow
from voxstrata.reporting.scores import Score
from voxstrata.reporting.wording import interval, metric_title, percent, points

#: Across and upwards: more is better, less is better.
EMOTIONS, WORDS = "uar", "wer"


def trade_off_figure(table: Table) -> Drawing | None:
    """WER against UAR, a point a row with intervals, light lines to its single folds.

    A row that has one of the two is a dashed line. None where fewer than two rows have both.
    """
    rows = [row for row in table.rows if row.finished]
    both = [row for row in rows if row.metrics.get(EMOTIONS) and row.metrics.get(WORDS)]
    if len(both) < 2:
        return None
    with canvas(5.6, 4.6) as (figure, axes):
        for index, row in enumerate(both):
            _draw_row(axes, index, row)
        for row in rows:
            if row not in both:
                _draw_line(axes, row)
        _rate_axis(axes)
        axes.set_xlabel("UAR in % (emotions; right is better)")
        axes.set_ylabel("WER in % (words; down is better)")
        axes.grid(color=GRID)
        legend_below(figure, axes, 2)
        svg = to_svg(figure)
    words = "; ".join(
        f"{row.shown}: "
        + ", ".join(
            f"{metric_title(name)} {percent(score.value)} {interval(score.speaker or score.iid)}"
            for name in (EMOTIONS, WORDS)
            if (score := row.metrics.get(name))
        )
        for row in rows
    )
    folds = " Light lines lead to single folds." if len(table.folds) > 1 else ""
    return Drawing(
        name="words-against-emotions",
        title="Words against emotions",
        alt=f"Scatter plot of WER against UAR. {words}.",
        caption=f"Points: rows; crosses: 95 % intervals by speaker.{folds} Dashed: rows with one task only.",
        svg=svg,
        header=("row", "fold", "uar", "uar_low", "uar_high", "wer", "wer_low", "wer_high"),
        rows=tuple(
            (row.shown, fold, *_numbers(scores.get(EMOTIONS)), *_numbers(scores.get(WORDS)))
            for row in rows
            for fold, scores in [
                ("all", row.metrics),
                *((str(f), one.metrics) for f, one in row.by_fold.items()),
            ]
        ),
    )


def _rate_axis(axes: Axes) -> None:
    """A logarithmic vertical axis, since error rates differ by factors; not where a rate is 0."""
    low, high = axes.dataLim.intervaly
    if low <= 0:
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.3, high * 1.3)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 40, 70, 100, 200, 400) if low / 1.3 <= tick <= high * 1.3]
    axes.set_yticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()


def _draw_row(axes: Axes, index: int, row: TableRow) -> None:
    color, marker = PALETTE[index % len(PALETTE)], MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]
    (x, *across), (y, *upwards) = _percents(row.metrics[EMOTIONS]), _percents(row.metrics[WORDS])
    for one in row.by_fold.values():
        emotions, words = one.metrics.get(EMOTIONS), one.metrics.get(WORDS)
        if emotions and words:
            fold = 100 * emotions.value, 100 * words.value
            axes.plot([x, fold[0]], [y, fold[1]], color=color, alpha=0.3, linewidth=0.8)
            axes.plot(*fold, marker=marker, color=color, alpha=0.3, markersize=3, linestyle="none")
    axes.plot(across, [y, y], color=color, linewidth=1.1)
    axes.plot([x, x], upwards, color=color, linewidth=1.1)
    axes.plot([x], [y], marker=marker, color=color, markersize=7, linestyle="none", label=label(row.shown),
              markeredgecolor="white", markeredgewidth=0.7, zorder=4)  # fmt: skip


def _draw_line(axes: Axes, row: TableRow) -> None:
    emotions, words = row.metrics.get(EMOTIONS), row.metrics.get(WORDS)
    dashed: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (4, 3))}
    written: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "color": MUTED}
    if emotions:
        x, above = 100 * emotions.value, ("data", "axes fraction")
        axes.axvline(x, **dashed)
        axes.annotate(label(row.shown), (x, 1), xycoords=above, xytext=(0, 3), ha="center", **written)
    elif words:
        y, beside = 100 * words.value, ("axes fraction", "data")
        axes.axhline(y, **dashed)
        axes.annotate(label(row.shown), (1, y), xycoords=beside, xytext=(-2, -9), ha="right", **written)


def _percents(score: Score | None) -> tuple[float, float, float]:
    assert score is not None
    low, high = score.speaker or score.iid or (score.value, score.value)
    return 100 * score.value, 100 * low, 100 * high


def _numbers(score: Score | None) -> tuple[float | None, ...]:
    if score is None:
        return None, None, None
    return score.value, *(score.speaker or score.iid or (None, None))


@dataclass(frozen=True)
class _Line:
    """A line of the forest: whose difference it is."""

    title: str
    differences: dict[str, Difference]
    pooled: bool


def fold_difference_figure(contrasts: Sequence[Contrast], metrics: Sequence[str]) -> Drawing:
    """Paired differences fold by fold and pooled, a panel a metric, beside a line at zero.

    Args:
        contrasts: those shown, each with its folds.
        metrics: those of the panels; a contrast without one leaves its place empty.
    """
    blocks = [_lines(one) for one in contrasts]
    height = sum(len(block) + 1.6 for block in blocks)
    with panels(5.6, 0.9 + 0.2 * height, len(metrics)) as (figure, beside):
        places: list[tuple[float, str]] = []
        y = 0.0
        for one, block in zip(contrasts, blocks, strict=True):
            # Over all panels: the layout leaves it out, or the first one would be as wide as it is.
            heading = beside[0].annotate(
                label(one.title, 60), (0.01, y), xycoords=("figure fraction", "data")
            )
            heading.set(va="center", fontsize=8.5, fontweight="bold", annotation_clip=False, in_layout=False)
            for axes in beside:
                axes.plot([0, 0], [y + 0.6, y + len(block) + 0.4], color=INK, linewidth=0.8, zorder=1)
            for line in block:
                y += 1
                places.append((y, line.title))
                for axes, metric in zip(beside, metrics, strict=True):
                    _draw_difference(axes, y, line.differences.get(metric), line.pooled)
            y += 1.6
        for axes, metric in zip(beside, metrics, strict=True):
            axes.set_xlabel(f"difference of {metric_title(metric)}, points")
            axes.grid(axis="x", color=GRID)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.patch.set_visible(False)
        beside[0].set_yticks([place for place, _ in places], [title for _, title in places])
        beside[0].set_ylim(y - 0.9, -0.8)
        svg = to_svg(figure)
    found = [
        (one.title, line.title, name, difference)
        for one, block in zip(contrasts, blocks, strict=True)
        for line in block
        for name in metrics
        if (difference := line.differences.get(name))
    ]
    words = "; ".join(
        f"{title}, {line}: {metric_title(name)} {points(one.difference, one.interval)}"
        for title, line, name, one in found
    )
    return Drawing(
        name="differences-by-fold",
        title="Paired differences, fold by fold",
        alt=f"Forest plot of paired differences in points. {words}.",
        caption="Dark: all folds; light: single folds. Bars: 95 %, the same speakers resampled for both. "
        "A bar across the line at zero shows no difference.",
        svg=svg,
        header=("contrast", "fold", "metric", "difference", "low", "high"),
        rows=tuple((title, line, name, one.difference, *one.interval) for title, line, name, one in found),
    )


def _lines(contrast: Contrast) -> list[_Line]:
    """A contrast's lines: all folds and each; where it has one fold only, that."""
    folds = [_Line(f"fold {fold}", found, False) for fold, found in contrast.by_fold.items()]
    return folds if len(folds) == 1 else [_Line("all folds", contrast.differences, True), *folds]


def _draw_difference(axes: Axes, y: float, found: Difference | None, pooled: bool) -> None:
    if found is None:
        return
    color = PALETTE[0] if pooled else PALETTE[5]
    axes.plot([100 * bound for bound in found.interval], [y, y], color=color, linewidth=3 if pooled else 1.6)
    axes.plot(
        [100 * found.difference], [y], "D" if pooled else "o", color=color, markersize=6 if pooled else 4
    )
