"""The figure of merge methods beside each other: emotions on the left, words on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxstrata.reporting.drawing import GRID, PALETTE, Drawing, panels, to_svg
from voxstrata.reporting.wording import interval, percent

#: What stands beside the methods -> its name in figures and tables.
SHOWN = {
    "base": "base",
    "expert-emotions": "expert for emotions",
    "expert-words": "expert for words",
    "halves": "one half of each (untuned)",
    "learned": "learned, heads trained too",
    "learned-experts-heads": "learned, experts' heads",
}
_BESIDE = ("base", "expert-emotions", "expert-words")
_PANELS = (
    ("uar", "UAR in % (right is better)", PALETTE[0]),
    ("wer", "WER in % (left is better)", PALETTE[1]),
)


def methods_figure(rows: Sequence[Mapping[str, Any]], heads: str = "experts") -> Drawing:
    """UAR and WER of each method with intervals; dashed lines stand at the two experts.

    Args:
        rows: as `experiments.merge_methods.table.MethodRow.as_dict` gives them.
        heads: "experts" or "fitted", for the name.
    """
    numbers: list[tuple[str | int | float | None, ...]] = []
    with panels(7.2, 0.9 + 0.24 * len(rows), 2) as (figure, beside):
        for axes, (metric, label, colour) in zip(beside, _PANELS, strict=True):
            for place, row in enumerate(rows):
                if (score := row["scores"].get(metric)) is None:
                    continue
                value, (low, high) = 100 * score["value"], _bounds(score)
                shade = GRID if row["name"] in _BESIDE else colour
                axes.plot([low, high], [place] * 2, color=shade, linewidth=1.1)
                axes.plot([value], [place], color=shade, marker="o", markersize=5, linestyle="none")
                numbers.append((row["name"], metric, value, low, high))
            axes.set_xlabel(label)
            axes.grid(axis="x", color=GRID)
        # Both axes share the vertical one.
        beside[0].set_yticks(range(len(rows)), [shown(row["name"]) for row in rows])
        beside[0].invert_yaxis()
        beside[1].set_xlim(0, min(100, beside[1].get_xlim()[1]))
        svg = to_svg(figure)
    return Drawing(
        name=f"methods-{heads}",
        title="Merge methods beside each other",
        alt=f"Dot plot of UAR and WER of each merge method. {'; '.join(map(_in_words, rows))}.",
        caption="Bars: 95 % intervals by resampling speakers. The upper a row, the more of both skills is "
        "kept. WER above 100 is not drawn.",
        svg=svg,
        header=("merge", "metric", "percent", "low", "high"),
        rows=tuple(numbers),
    )


def shown(name: str) -> str:
    """What a row is called."""
    return SHOWN.get(name, name)


def _bounds(score: Mapping[str, Any]) -> tuple[float, float]:
    low, high = score["speaker"] or score["iid"]
    return 100 * low, 100 * high


def _in_words(row: Mapping[str, Any]) -> str:
    parts = []
    for name, title in (("uar", "UAR"), ("wer", "WER")):
        if (score := row["scores"].get(name)) is not None:
            parts.append(f"{title} {percent(score['value'])} {interval(score['speaker'] or score['iid'])}")
    return f"{shown(row['name'])}: {', '.join(parts)}"
