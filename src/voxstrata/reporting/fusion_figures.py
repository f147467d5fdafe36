"""Figures of fusion weights: what each task takes of the layers."""

from __future__ import annotations

from collections.abc import Sequence

from voxstrata.reporting.drawing import GRID, MUTED, PALETTE, Drawing, canvas, label, legend_below, to_svg
from voxstrata.reporting.figures import MARKERS, layer_axis
from voxstrata.reporting.fusion import FusionWeights, Weights


def fusion_drawings(weights: FusionWeights) -> list[Drawing]:
    """One figure for the encoder's layers, one for the language model's."""
    drawings = []
    if weights.gate:
        drawings.append(_figure("encoder-fusion", "Encoder fusion", "gate", "the encoder", weights.gate))
    if weights.alpha:
        told = "the language model"
        drawings.append(_figure("layer-fusion", "Prompt-adaptive layer fusion", "alpha", told, weights.alpha))
    return drawings


def _figure(name: str, title: str, symbol: str, of: str, weights: Weights) -> Drawing:
    count = max(map(len, weights.values()))
    layers = range(1, count + 1)
    with canvas(4.6, 3.0) as (figure, axes):
        axes.axhline(
            1 / count, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=f"uniform {1 / count:.3g}"
        )
        for index, (task, values) in enumerate(weights.items()):
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=PALETTE[index % len(PALETTE)],
                marker=MARKERS[index % len(MARKERS)],
                label=label(task),
            )
        layer_axis(axes, 1, count)
        axes.set_ylim(0, 1.08 * max(1 / count, *(max(values) for values in weights.values())))
        axes.set_ylabel(f"weight {symbol}")
        axes.grid(axis="y", color=GRID)
        legend_below(figure, axes, 4)
        svg = to_svg(figure)
    words = "; ".join(
        f"{task}: most of layer {_top(values)} ({max(values):.3f})" for task, values in weights.items()
    )
    return Drawing(
        name=name,
        title=title,
        alt=f"Line chart of each task's weight of layers 1 to {count} of {of}. {words}.",
        caption=f"{words}. Uniform would be {1 / count:.3f}.",
        svg=svg,
        header=("layer", *weights),
        rows=tuple(
            (layer, *(values[layer - 1] if layer <= len(values) else None for values in weights.values()))
            for layer in layers
        ),
    )


def _top(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__) + 1
