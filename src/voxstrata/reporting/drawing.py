"""Drawing: a matplotlib figure becomes a deterministic SVG with its numbers beside it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voxstrata.runs import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette, safe for colour-blind readers (yellow left out: too faint on white).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#1f2328"
MUTED = "#59636e"
GRID = "#e4e7eb"
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_STYLE = {
    "svg.hashsalt": "voxstrata",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.edgecolor": "#8c959f",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "xtick.color": "#8c959f",
    "xtick.labelcolor": INK,
    "ytick.color": "#8c959f",
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


@dataclass(frozen=True)
class Drawing:
    """A figure ready for a page.

    Args:
        name: file name without ending; unique on its page.
        title: heading.
        alt: what the figure shows, for those who do not see it.
        caption: how to read it.
        svg: the standalone SVG document.
        header: names of the columns of the numbers.
        rows: the numbers drawn.
        wide: whether it takes the width of the page.
    """

    name: str
    title: str
    alt: str
    caption: str
    svg: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    wide: bool = False

    @property
    def csv(self) -> str:
        """The numbers as CSV; floats in full precision, absent ones empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([self.header, *self.rows])
        return out.getvalue()

    @property
    def inline(self) -> str:
        """The SVG element for a page: no prologue, ids of its own, size left to the page."""
        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r' (?:width|height)="[\d.]+pt"', "", body, count=2)
        body = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', body)
        body = re.sub(r"url\(#", f"url(#{self.name}-", body)
        body = re.sub(r'href="#', f'href="#{self.name}-', body)
        return body.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()

    def save(self, folder: Path) -> None:
        """Writes `NAME.svg` and `NAME.csv`."""
        atomic_write(folder / f"{self.name}.svg", self.svg)
        atomic_write(folder / f"{self.name}.csv", self.csv)


def laid_out(drawings: Sequence[Drawing]) -> list[tuple[Drawing, str]]:
    """Figures in rows of two, so that none stands beside a hole.

    Returns:
        each with its place: "wide" fills a row, "alone" has a row to itself, "" is one of two.
    """
    places: list[tuple[Drawing, str]] = []
    pair = False
    for index, drawing in enumerate(drawings):
        if drawing.wide:
            places.append((drawing, "wide"))
            continue
        follows = index + 1 < len(drawings) and not drawings[index + 1].wide
        places.append((drawing, "" if pair or follows else "alone"))
        pair = not pair and follows
    return places


def label(text: str, width: int = 28) -> str:
    """A name as a figure can show it: one line, no control characters, not too long."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"


@contextmanager
def canvas(width_in: float, height_in: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one axes in the house style; draw and call `to_svg` inside."""
    with panels(width_in, height_in, 1) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def panels(width_in: float, height_in: float, count: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """The same with several axes beside each other, over one vertical axis."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
        beside = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
        for axes in beside:
            axes.set_axisbelow(True)
        yield figure, beside


def to_svg(figure: Figure) -> str:
    """The figure as an SVG document without date, creator or machine-dependent ids."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue().replace("'DejaVu Sans'", FONTS)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend under the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))


def binned(
    steps: Sequence[int], values: Sequence[float], most: int = 400
) -> tuple[list[float], list[float], int]:
    """Means of consecutive points, so that a curve stays light however long the run was.

    Returns:
        steps and values of at most `most` points, and how many points each stands for.

    >>> binned([1, 2, 3, 4], [1.0, 3.0, 5.0, 7.0], most=2)
    ([1.5, 3.5], [2.0, 6.0], 2)
    """
    size = max(1, -(-len(steps) // most))
    chunks = [slice(start, start + size) for start in range(0, len(steps), size)]
    return (
        [sum(steps[c]) / len(steps[c]) for c in chunks],
        [sum(values[c]) / len(values[c]) for c in chunks],
        size,
    )
