"""A metric with its 95 % intervals, from counts of clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from voxstrata.evaluation.answers import Answers
from voxstrata.evaluation.concordance import Ratings
from voxstrata.evaluation.intervals import (
    by_clip,
    by_unit,
    cluster_weights,
    interval,
    resampled_sums,
    toolkit_weights,
)
from voxstrata.evaluation.tally import Tally


@dataclass(frozen=True)
class Metric:
    """A metric in [0, 1] (WER may exceed 1) with its 95 % intervals.

    Args:
        value: over all clips.
        iid: clips resampled one by one, as the paper's toolkit does.
        speaker: speakers resampled; None where they are unknown or there is one only.
    """

    value: float
    iid: tuple[float, float]
    speaker: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "value": self.value,
            "iid": list(self.iid),
            "speaker": None if self.speaker is None else list(self.speaker),
        }


def metrics_of(
    tally: Tally,
    found: Answers | Ratings,
    resamples: int,
    seed: int,
    clip_of: Callable[[str], str] = str,
) -> dict[str, Metric]:
    """Every measure with its intervals.

    Args:
        tally: counts of the clips.
        found: the answers behind them, in the same order.
        resamples: bootstrap samples of either kind.
        seed: of the resampling by speaker.
        clip_of: id -> the clip it answers; one that has several ids is drawn with all of them.
    """
    alone = by_clip(tally.table, [clip_of(row) for row in found.ids])
    clips = resampled_sums(alone, toolkit_weights(alone.shape[0], resamples))
    speakers = None
    if found.known_speakers is not None and len(set(found.known_speakers)) > 1:
        table = by_unit(tally.table, found.known_speakers)
        speakers = resampled_sums(table, cluster_weights(table.shape[0], resamples, seed))
    return {
        name: Metric(
            value=float(measure(tally.total)),
            iid=interval(measure(clips)),
            speaker=None if speakers is None else interval(measure(speakers)),
        )
        for name, measure in tally.measures.items()
    }
