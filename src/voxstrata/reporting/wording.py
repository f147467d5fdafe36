"""How numbers are written on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from voxstrata.evaluation.shown import METRICS, metric_and_field, title
from voxstrata.reporting.scores import Score

#: Name of a metric in print.
metric_title = title


def about_metric(name: str) -> str:
    """What a metric is, as a sentence.

    >>> about_metric("uar"), about_metric("uar_gender"), about_metric("other")
    ('Unweighted average recall.', 'Unweighted average recall.', 'Other.')
    """
    of, _ = metric_and_field(name)
    text = name if of is None else METRICS[of][1]
    return f"{text[:1].upper()}{text[1:]}."


def counted(clips: int | None, speakers: int | None) -> str:
    """Clips and their speakers, as far as they are known.

    >>> counted(1200, 1), counted(1, 0), counted(None, 3)
    ('1,200 clips, 1 speaker', '1 clip', '')
    """
    if clips is None:
        return ""
    people = f", {speakers:,} speaker{'s' * (speakers != 1)}" if speakers else ""
    return f"{clips:,} clip{'s' * (clips != 1)}{people}"


def percent(value: float | None, digits: int = 1) -> str:
    """A rate in percent.

    >>> percent(0.4126), percent(None)
    ('41.3', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.{digits}f}"


def percents(values: Sequence[float]) -> str:
    """Rates in percent, one after the other.

    >>> percents((0.41, 0.402)), percents(())
    ('41.0, 40.2', '–')
    """
    return ", ".join(map(percent, values)) or "–"


def interval(bounds: tuple[float, float] | None) -> str:
    """An interval of rates in percent.

    >>> interval((0.381, 0.4431))
    '[38.1, 44.3]'
    """
    return "–" if bounds is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"


def points(difference: float, bounds: tuple[float, float]) -> str:
    """A difference of rates in percentage points.

    >>> points(0.021, (-0.004, 0.05))
    '+2.1 [-0.4, +5.0]'
    """
    return f"{100 * difference:+.1f} [{100 * bounds[0]:+.1f}, {100 * bounds[1]:+.1f}]"


def sentence(score: Score) -> str:
    """A score with its intervals, in words.

    >>> sentence(Score(value=0.5, iid=(0.4, 0.6)))
    '50.0 %, 95 % interval by clip [40.0, 60.0]'
    """
    text = f"{percent(score.value)} %"
    if score.iid:
        text += f", 95 % interval by clip {interval(score.iid)}"
    if score.speaker:
        text += f", by speaker {interval(score.speaker)}"
    return text


def cell(value: str | int | float | None) -> str:
    """A number of a figure in a small table.

    >>> cell(0.123456), cell(12), cell(None)
    ('0.1235', '12', '–')
    """
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
