"""Figure of paired differences between rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from voxstrata.reporting.drawing import GRID, INK, PALETTE, Drawing, canvas, label, to_svg
from voxstrata.reporting.figures import slug
from voxstrata.reporting.runs_table import Contrast
from voxstrata.reporting.wording import metric_title, points


def contrast_figure(metric: str, contrasts: Sequence[Contrast]) -> Drawing:
    """Differences of a metric in percentage points with their intervals, beside a line at zero.

    Contrasts without the metric are left out.
    """
    title = metric_title(metric)
    found = [(one, one.differences[metric]) for one in contrasts if metric in one.differences]
    with canvas(4.6, 1.2 + 0.34 * len(found)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, (_, difference) in enumerate(found):
            axes.plot([100 * bound for bound in difference.interval], [y, y], color=PALETTE[5], linewidth=5)
            axes.plot([100 * difference.difference], [y], "o", color=PALETTE[0], markersize=6)
        axes.set_yticks(range(len(found)), [label(one.name, 40) for one, _ in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"difference of {title} in points")
        axes.grid(axis="x", color=GRID)
        svg = to_svg(figure)
    words = "; ".join(f"{one.title}: {points(value.difference, value.interval)}" for one, value in found)
    return Drawing(
        name=f"difference-{slug(metric)}",
        title=f"{title}: paired differences",
        alt=f"Forest plot of paired differences of {title}. {words}.",
        caption="Dots: differences on the same clips; bars: 95 %, the same speakers resampled for both rows. "
        "A bar across the line at zero shows no difference.",
        svg=svg,
        header=("contrast", "difference", "low", "high", "smallest_detectable", "clips"),
        rows=tuple(
            (one.title, value.difference, *value.interval, value.smallest, one.clips) for one, value in found
        ),
    )
