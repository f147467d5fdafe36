"""Figures of training: losses and learning rates against steps."""

from __future__ import annotations

import math
from typing import Any

from voxstrata.reporting.contents import RunContents
from voxstrata.reporting.drawing import GRID, PALETTE, Drawing, binned, canvas, label, legend_below, to_svg


def best_validation(contents: RunContents) -> dict[str, Any] | None:
    """The last validation row marked as best."""
    marked = [dict(row) for row in contents.validations if row.get("best")]
    return marked[-1] if marked else None


def loss_figure(contents: RunContents) -> Drawing:
    """Training and validation loss against steps; the best validation marked."""
    steps = [row["step"] for row in contents.steps]
    losses = [float(row["loss"]) for row in contents.steps]
    checked = [(row["step"], float(row["loss"])) for row in contents.validations]
    best = best_validation(contents)
    size = 1
    with canvas(4.6, 3.0) as (figure, axes):
        if steps:
            x, y, size = binned(steps, losses)
            axes.plot(x, y, color=PALETTE[5], linewidth=1.2, label="train")
        if checked:
            axes.plot(
                *zip(*checked, strict=True), color=PALETTE[0], marker="o", markersize=3, label="validation"
            )
        if best:
            axes.plot(
                [best["step"]],
                [best["loss"]],
                "*",
                color=PALETTE[1],
                markersize=11,
                label=f"best, step {best['step']}",
            )
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(axis="y", color=GRID)
        legend_below(figure, axes, 3)
        svg = to_svg(figure)
    words = []
    if steps:
        words.append(f"Training loss from {losses[0]:.3g} to {losses[-1]:.3g} over {steps[-1]} steps")
    if best:
        words.append(f"best validation loss {best['loss']:.4g} at step {best['step']}")
    elif checked:
        words.append(f"last validation loss {checked[-1][1]:.4g} at step {checked[-1][0]}")
    text = "; ".join(words)
    means = f" Each point of the training curve is the mean of {size} steps." if size > 1 else ""
    rows: list[tuple[str, int, float, int | None]]
    rows = [("train", step, loss, None) for step, loss in zip(steps, losses, strict=True)]
    rows += [
        ("validation", row["step"], float(row["loss"]), int(bool(row.get("best"))))
        for row in contents.validations
    ]
    return Drawing(
        name="loss",
        title="Loss",
        alt=f"Line chart of the loss against steps. {text}.",
        caption=f"{text[:1].upper()}{text[1:]}.{means}",
        svg=svg,
        header=("series", "step", "loss", "best"),
        rows=tuple(rows),
    )


def learning_rate_figure(contents: RunContents) -> Drawing | None:
    """Learning rate of each parameter group against steps; None where the journal has none."""
    from matplotlib.ticker import FuncFormatter

    rated = [row for row in contents.steps if isinstance(row.get("lr"), dict) and row["lr"]]
    groups = list(dict.fromkeys(group for row in rated for group in row["lr"]))
    if not groups:
        return None
    steps = [row["step"] for row in rated]
    columns = {group: [float(row["lr"].get(group, math.nan)) for row in rated] for group in groups}
    peaks = [max(column) for column in columns.values()]
    with canvas(4.6, 3.0) as (figure, axes):
        for index, group in enumerate(groups):
            x, y, _ = binned(steps, columns[group])
            dashes = ("-", (0, (5, 2)), (0, (1.5, 1.5)))[index % 3]
            axes.plot(x, y, color=PALETTE[index % len(PALETTE)], linestyle=dashes, label=label(group))
        if min(peaks) > 0 and max(peaks) >= 5 * min(peaks):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.set_xlabel("step")
        axes.set_ylabel("learning rate")
        axes.grid(axis="y", color=GRID)
        legend_below(figure, axes, 3)
        svg = to_svg(figure)
    words = ", ".join(f"{group} {peak:.3g}" for group, peak in zip(groups, peaks, strict=True))
    return Drawing(
        name="learning-rates",
        title="Learning rates",
        alt=f"Line chart of the learning rate of each parameter group against steps. Peaks: {words}.",
        caption=f"Peaks: {words}.",
        svg=svg,
        header=("step", *groups),
        rows=tuple((step, *(columns[group][i] for group in groups)) for i, step in enumerate(steps)),
    )
