"""Figures of a model and its answers: coefficients, layer weights, confusion matrix, recall."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from voxstrata.reporting.coefficients import Coefficients
from voxstrata.reporting.drawing import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    Drawing,
    canvas,
    label,
    legend_below,
    to_svg,
)
from voxstrata.reporting.scores import EmotionScores
from voxstrata.reporting.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
#: Coefficients that hardly moved must not look as if they had: the axis shows at least this much around init.
LEAST_HALF_RANGE = 0.05
#: A confusion matrix of more classes takes the width of the page.
MOST_NARROW_CLASSES = 10


def coefficient_limits(values: Iterable[float], starts: Iterable[float]) -> tuple[float, float]:
    """Limits of a coefficient axis: all values and starts, never closer than the least range."""
    finite = [value for value in values if math.isfinite(value)]
    low = min([*finite, *(start - LEAST_HALF_RANGE for start in starts)])
    high = max([*finite, *(start + LEAST_HALF_RANGE for start in starts)])
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def init_lines(axes: Axes, starts: Iterable[float]) -> None:
    """A dashed line where coefficients started."""
    for start in sorted(set(starts)):
        axes.axhline(start, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=f"init {start:g}")


def coefficient_range(vector: str, values: list[float]) -> str:
    """A vector's coefficients in words.

    >>> coefficient_range("asr", [0.5, 0.25, 0.75])
    'asr: mean 0.500, from 0.250 (layer 1) to 0.750 (layer 2)'
    """
    low, high = min(values), max(values)
    return (
        f"{vector}: mean {sum(values) / len(values):.3f}, from {low:.3f} (layer {values.index(low)}) "
        f"to {high:.3f} (layer {values.index(high)})"
    )


def coefficient_figure(coefficients: Coefficients) -> Drawing:
    """Coefficient lambda against layer 0..L, one line a vector (as figure 2 of arXiv 2603.25041)."""
    columns = [coefficients.column(vector) for vector in coefficients.vectors]
    layers = range(len(coefficients.coefficients))
    with canvas(4.6, 3.0) as (figure, axes):
        init_lines(axes, coefficients.starts.values())
        for index, (vector, values) in enumerate(zip(coefficients.vectors, columns, strict=True)):
            axes.plot(
                layers,
                values,
                color=PALETTE[index % len(PALETTE)],
                marker=MARKERS[index % len(MARKERS)],
                label=label(vector),
            )
        axes.set_ylim(
            *coefficient_limits([v for column in columns for v in column], coefficients.starts.values())
        )
        layer_axis(axes, 0, len(layers) - 1)
        axes.set_ylabel("coefficient λ")
        axes.grid(axis="y", color=GRID)
        legend_below(figure, axes, 4)
        svg = to_svg(figure)
    words = "; ".join(map(coefficient_range, coefficients.vectors, columns))
    return Drawing(
        name="coefficients",
        title="Coefficients per layer",
        alt=f"Line chart of each task vector's coefficient against layer 0 to {len(layers) - 1}. {words}.",
        caption=f"{words}. Layer 0 is everything in front of the transformer layers.",
        svg=svg,
        header=("layer", *coefficients.vectors),
        rows=tuple((layer, *row) for layer, row in enumerate(coefficients.coefficients)),
    )


def layer_axis(axes: Axes, first: int, last: int) -> None:
    """An x axis over layers, with whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(first - 0.6, last + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=13, integer=True, min_n_ticks=1))
    axes.set_xlabel("layer")


def layer_weight_figure(weights: tuple[float, ...]) -> Drawing:
    """Layer weights alpha, softmax-normalised, for layers 1..L."""
    layers = range(1, len(weights) + 1)
    uniform = 1 / len(weights)
    with canvas(4.6, 3.0) as (figure, axes):
        axes.bar(layers, weights, width=0.72, color=PALETTE[0], label="weight α")
        axes.axhline(uniform, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=f"uniform {uniform:.3g}")
        layer_axis(axes, 1, len(weights))
        axes.set_ylim(0, 1.08 * max(*weights, uniform))
        axes.set_ylabel("weight α")
        axes.grid(axis="y", color=GRID)
        legend_below(figure, axes, 2)
        svg = to_svg(figure)
    top = max(layers, key=lambda layer: weights[layer - 1])
    words = f"Layer {top} weighs most ({weights[top - 1]:.3f}); uniform would be {uniform:.3f}"
    if max(weights) - min(weights) < 1e-6:
        words = f"All layers weigh the same ({uniform:.3f})"
    return Drawing(
        name="layer-weights",
        title="Layer weights",
        alt=f"Bar chart of the weight of each layer 1 to {len(weights)} in the sum of states. {words}.",
        caption=f"{words}. Layer 0 has no part in the sum.",
        svg=svg,
        header=("layer", "weight"),
        rows=tuple(zip(layers, weights, strict=True)),
    )


def confusion_figure(split: str, emotion: EmotionScores) -> Drawing:
    """Confusion matrix, each row as shares of its reference class, with counts."""
    from matplotlib.colors import LinearSegmentedColormap

    labels, counts = emotion.labels, emotion.confusion
    size = len(labels)
    shares = [[count / sum(row) if sum(row) else 0.0 for count in row] for row in counts]
    wide = size > MOST_NARROW_CLASSES
    # Three digits (1.9 times as wide as high) fit a cell; all cells together are some 240 or 520 pt wide.
    large = min(9.0, (520 if wide else 240) / size / 2.2)
    with canvas(9.0 if wide else 4.6, 1.4 + 0.38 * size) as (figure, axes):
        cmap = LinearSegmentedColormap.from_list("share", ["#ffffff", "#56B4E9", "#0072B2", "#00436b"])
        axes.pcolormesh(shares, cmap=cmap, vmin=0, vmax=1, edgecolors="#d0d7de", linewidth=0.6)
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                ink = "white" if shares[y][x] > 0.45 else INK
                axes.text(
                    x + 0.5,
                    y + 0.42,
                    percent(shares[y][x], 0),
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=large,
                )
                axes.text(
                    x + 0.5, y + 0.76, str(count), ha="center", va="center", color=ink, fontsize=0.72 * large
                )
        ticks = [index + 0.5 for index in range(size)]
        names = [label(name, 14) for name in labels]
        axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()
        axes.set_xlabel("prediction")
        axes.set_ylabel("reference")
        svg = to_svg(figure)
    words = ", ".join(f"{name} {percent(shares[i][i], 0)} %" for i, name in enumerate(labels))
    return Drawing(
        name=f"confusion-{slug(split)}",
        title="Confusion matrix",
        alt=f"Confusion matrix of {size} classes on {split}; share of each reference class found: {words}.",
        caption="Large: percent of the answers to the reference class (a row is 100). Small: clips.",
        svg=svg,
        header=("reference", "prediction", "count", "share"),
        rows=tuple(
            (reference, prediction, counts[y][x], shares[y][x])
            for y, reference in enumerate(labels)
            for x, prediction in enumerate(labels)
        ),
        wide=wide,
    )


def recall_figure(split: str, emotion: EmotionScores) -> Drawing:
    """Recall of each class, with its number of clips."""
    labels = [name for name in emotion.labels if name in emotion.recall]
    support = [emotion.support.get(name) for name in labels]
    recall = [emotion.recall[name] for name in labels]
    values = [100 * value if value is not None else 0.0 for value in recall]
    with canvas(4.6, 1.4 + 0.38 * len(labels)) as (figure, axes):
        axes.barh(range(len(labels)), values, height=0.62, color=PALETTE[0])
        for y, clips in enumerate(support):
            axes.text(values[y] + 1.2, y, percent(recall[y]), va="center", ha="left", bbox=_PLATE)
            if clips is not None:
                axes.text(
                    1.02,
                    y,
                    f"n = {clips}",
                    va="center",
                    ha="left",
                    color=MUTED,
                    transform=axes.get_yaxis_transform(),
                )
        if emotion.uar is not None:
            axes.axvline(
                100 * emotion.uar.value, color=PALETTE[1], linewidth=1.2, linestyle=(0, (4, 3)), label="UAR"
            )
        axes.set_yticks(range(len(labels)), [label(name, 14) for name in labels])
        axes.invert_yaxis()
        # Room for the widest number behind a bar of 100, before the column of n begins.
        axes.set_xlim(0, 124)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("recall in %")
        axes.grid(axis="x", color=GRID)
        legend_below(figure, axes, 1)
        svg = to_svg(figure)
    words = ", ".join(
        f"{name} {percent(value)} %" + (f" of {n}" if n is not None else "")
        for name, value, n in zip(labels, recall, support, strict=True)
    )
    return Drawing(
        name=f"recall-{slug(split)}",
        title="Recall per class",
        alt=f"Bar chart of recall per class on {split}: {words}.",
        caption="n is the number of clips with that reference. UAR is the mean of the bars with clips.",
        svg=svg,
        header=("class", "recall", "support"),
        rows=tuple(zip(labels, recall, support, strict=True)),
    )


def slug(text: str) -> str:
    """A name that is safe in file names and ids; a changed one gets a checksum, so that two never meet.

    >>> slug("test-clean"), slug("test clean")[:11], slug("a b") == slug("a/b")
    ('test-clean', 'test-clean-', False)
    """
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in text)
    return safe if safe == text else f"{safe}-{zlib.crc32(text.encode()):08x}"
