"""Figure of task vectors beside each other: norm, and cosine and signs of each pair, against the layer."""

from __future__ import annotations

from voxstrata.merging.comparison import VectorComparison
from voxstrata.reporting.drawing import GRID, PALETTE, Drawing, canvas, label, legend_below, to_svg
from voxstrata.reporting.figures import MARKERS


def vectors_figure(found: VectorComparison) -> Drawing:
    """Norms on the left; cosine (lines) and share of equal signs (dashed) on the right."""
    labels = found.labels[:-1]
    places = range(len(labels))
    with canvas(9.0, 3.4) as (figure, whole):
        whole.remove()
        left, right = figure.subplots(1, 2)
        for index, (name, layers) in enumerate(found.layers.items()):
            style = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}
            left.plot(places, [layer.norm for layer in layers[:-1]], label=label(name), **style)
        for index, ((one, other), pairs) in enumerate(found.pairs.items()):
            colour = PALETTE[index % len(PALETTE)]
            name = label(f"{one}, {other}")
            cosines = [_number(pair.cosine) for pair in pairs[:-1]]
            signs = [_number(pair.same_sign) for pair in pairs[:-1]]
            right.plot(
                places, cosines, color=colour, marker=MARKERS[index % len(MARKERS)], label=f"cos {name}"
            )
            right.plot(places, signs, color=colour, linestyle=(0, (4, 3)), label=f"sign {name}")
        for axes, words in ((left, "norm of the vector"), (right, "cosine, share of equal signs")):
            step = max(1, len(labels) // 12)
            axes.set_xticks(list(places)[::step], list(labels)[::step])
            axes.set_xlabel("layer")
            axes.set_ylabel(words)
            axes.grid(axis="y", color=GRID)
        legend_below(figure, left, 4)
        if found.pairs:
            right.legend()
        svg = to_svg(figure)
    words = "; ".join(f"{name}: norm {layers[-1].norm:.3g}" for name, layers in found.layers.items())
    return Drawing(
        name="vectors",
        title="Task vectors per layer",
        alt=f"Line charts of each task vector's norm and of each pair's cosine against the layer. {words}.",
        caption=f"{words}. Layer 0 is everything outside the layers.",
        svg=svg,
        header=(
            "layer",
            *(f"norm {name}" for name in found.layers),
            *(f"cosine {a} {b}" for a, b in found.pairs),
        ),
        rows=tuple(
            (
                name,
                *(layers[index].norm for layers in found.layers.values()),
                *(pairs[index].cosine for pairs in found.pairs.values()),
            )
            for index, name in enumerate(labels)
        ),
        wide=True,
    )


def _number(value: float | None) -> float:
    """A gap in a line where there is no value."""
    return float("nan") if value is None else value
