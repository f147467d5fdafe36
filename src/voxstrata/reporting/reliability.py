"""The reliability diagram of a split: how often answers are right, against how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from voxstrata.evaluation.calibration import BINS, Bin, confidences_in, reliability, tempered
from voxstrata.predictions import Prediction
from voxstrata.reporting.drawing import GRID, MUTED, PALETTE, Drawing, canvas, legend_below, to_svg
from voxstrata.reporting.figures import slug
from voxstrata.reporting.scores import CalibrationScores
from voxstrata.reporting.wording import interval, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bins = Sequence[Bin | None]


def reliability_figure(
    split: str, predictions: Sequence[Prediction], scores: CalibrationScores
) -> Drawing | None:
    """Accuracy against confidence in bins, with the number of clips (Guo et al. 2017, figure 1).

    Args:
        split: of the run.
        predictions: its rows.
        scores: its calibration in `metrics.json`.
    """
    found = confidences_in(predictions)
    if found is None:
        return None
    temperature = scores.temperature or 1.0
    sets = {"probabilities" if temperature == 1 else "with temperature": reliability(found)}
    if temperature != 1:
        plain = confidences_in([tempered(row, 1 / temperature) for row in predictions])
        assert plain is not None
        sets["before temperature"] = reliability(plain)
    with canvas(4.6, 3.6) as (figure, axes):
        beside = axes.twinx()
        _draw_counts(beside, next(iter(sets.values())))
        axes.set_zorder(beside.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="ideal")
        for (name, bins), colour in zip(sets.items(), PALETTE, strict=False):
            _draw(axes, name, bins, colour, banded=not name.startswith("before"))
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.set_xlabel("confidence in %")
        axes.set_ylabel("right answers in %")
        axes.grid(color=GRID)
        legend_below(figure, axes, 3)
        svg = to_svg(figure)
    words = _in_words(scores)
    return Drawing(
        name=f"reliability-{slug(split)}",
        title="Reliability of the probabilities",
        alt=f"Share of right answers against confidence on {split}, in {BINS} bins. {words}.",
        caption=f"{words}. On the dashed line answers are right as often as their probability says. "
        "Band: 95 % by speaker. Grey bars: clips in a bin.",
        svg=svg,
        header=("probabilities", "confidence", "accuracy", "clips", "low", "high"),
        rows=tuple(
            (name, one.confidence, one.accuracy, one.clips, *(one.band or (None, None)))
            for name, bins in sets.items()
            for one in bins
            if one is not None
        ),
    )


def _draw_counts(axes: Axes, bins: Bins) -> None:
    width = 100 / BINS
    clips = [0 if one is None else one.clips for one in bins]
    axes.bar([(k + 0.5) * width for k in range(BINS)], clips, width=0.9 * width, color=GRID)
    # The bars take the lower third, so that the lines lie above most of them.
    axes.set_ylim(0, 3 * max(*clips, 1))
    axes.set_ylabel("clips", color=MUTED)
    axes.spines["right"].set_visible(True)


def _draw(axes: Axes, name: str, bins: Bins, colour: str, *, banded: bool) -> None:
    there = [one for one in bins if one is not None]
    x = [100 * one.confidence for one in there]
    axes.plot(x, [100 * one.accuracy for one in there], color=colour, marker="o", label=name)
    known = [(100 * one.confidence, *one.band) for one in there if one.band is not None]
    # Two bands over each other show neither.
    if banded and known:
        at, low, high = zip(*known, strict=True)
        axes.fill_between(
            at, [100 * v for v in low], [100 * v for v in high], color=colour, alpha=0.15, linewidth=0
        )


def _in_words(scores: CalibrationScores) -> str:
    """Both measures, and what they were before the temperature."""
    before = scores.before
    bounds = scores.ece.speaker or scores.ece.iid
    shown = f" {interval(bounds)}" if bounds else ""
    error = f"Expected calibration error {percent(scores.ece.value)} %{shown}"
    brier = f"Brier score {scores.brier.value:.3f}"
    if before is None:
        return f"{error}; {brier}" + ("; no temperature" if scores.temperature == 1 else "")
    was = percent(before.ece.value), f"{before.brier.value:.3f}"
    return f"Temperature {scores.temperature:.3f}. {error}, before {was[0]} %; {brier}, before {was[1]}"
