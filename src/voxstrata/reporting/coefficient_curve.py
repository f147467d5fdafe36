"""The figure of emotions and words against the coefficient of a fine-tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxstrata.reporting.drawing import GRID, PALETTE, Drawing, canvas, legend_below, to_svg

#: Measure -> name in the legend, colour and marker.
_SERIES = {
    "uar": ("emotions: UAR, head of the expert", PALETTE[0], "o"),
    "wer_ctc": ("words: WER, CTC head of the base", PALETTE[1], "s"),
    "wer_decoder": ("words: WER, Whisper's decoder", PALETTE[4], "^"),
}


def curve_figure(points: Sequence[Mapping[str, Any]]) -> Drawing:
    """UAR and WER against the coefficient, with bands of 95 % by speaker; WER above 100 is cut off.

    Args:
        points: as `analysis.coefficient_curve.Point.as_dict` gives them.
    """
    names = [name for name in _SERIES if name in points[0]["scores"]]
    x = [float(point["coefficient"]) for point in points]
    rows: list[tuple[str | int | float | None, ...]] = []
    with canvas(5.6, 3.6) as (figure, axes):
        for name in names:
            title, colour, marker = _SERIES[name]
            scores = [point["scores"][name] for point in points]
            values = [100 * float(score["value"]) for score in scores]
            bounds = [score["speaker"] or score["iid"] for score in scores]
            low, high = ([100 * float(bound[side]) for bound in bounds] for side in (0, 1))
            axes.plot(x, values, color=colour, marker=marker, label=title)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            rows += [
                (name, point, value, least, most)
                for point, value, least, most in zip(x, values, low, high, strict=True)
            ]
        axes.set_xlabel("coefficient of the emotion vector (0: the base, 1: the expert)")
        axes.set_ylabel("percent")
        axes.set_ylim(0, 100)
        axes.grid(axis="y", color=GRID)
        legend_below(figure, axes, 1)
        svg = to_svg(figure)
    words = "; ".join(_in_words(name, points) for name in names)
    return Drawing(
        name="curve",
        title="Emotions and words against the coefficient",
        alt=f"Line chart of percent against the coefficient. {words}.",
        caption="Bands: 95 % intervals by resampling speakers. WER above 100 is not drawn.",
        svg=svg,
        header=("series", "coefficient", "percent", "low", "high"),
        rows=tuple(rows),
    )


def _in_words(name: str, points: Sequence[Mapping[str, Any]]) -> str:
    values = ", ".join(
        f"{100 * float(point['scores'][name]['value']):.1f} at {point['coefficient']:g}" for point in points
    )
    return f"{_SERIES[name][0]}: {values}"
