"""Several trainings (seeds) of one system on the same clips: their mean, and clips drawn for all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.answers import first_few
from voxstrata.evaluation.metrics import Metric, metrics_of
from voxstrata.evaluation.score import NOTHING, warnings_of
from voxstrata.evaluation.tally import repeated
from voxstrata.evaluation.tasks import Answered, task_tally, tasks_in
from voxstrata.predictions import Prediction


@dataclass(frozen=True)
class MeanScores:
    """Scores of several trainings of one system on the same clips.

    Args:
        metrics: named as in tables (`uar`, `wer`, `uar_gender`, ...): the means over the trainings.
        of_each: metric -> its value for each training.
        warnings: plain sentences for whoever reads the numbers.
    """

    metrics: Mapping[str, Metric]
    of_each: Mapping[str, tuple[float, ...]]
    warnings: tuple[str, ...]


def score_repeats(
    repeats: Sequence[Sequence[Prediction]],
    *,
    normalizer: str = "basic",
    clip_of: Callable[[str], str] = str,
    resamples: int = 1000,
    seed: int = 0,
) -> MeanScores:
    """Scores several trainings (seeds) of one system; clips without an answer count as wrong.

    Args:
        repeats: rows of each training, for the same ids in the same order.
        normalizer: of transcripts.
        clip_of: id -> the clip it answers; one that has several ids is drawn with all of them.
        resamples: bootstrap samples of either kind.
        seed: of the resampling by speaker.

    Raises:
        PredictionsError: if the trainings answer other clips, or nothing can be scored.
    """
    found = [tasks_in(rows) for rows in repeats]
    metrics: dict[str, Metric] = {}
    of_each: dict[str, tuple[float, ...]] = {}
    for task in found[0].by_name:
        if not all(task in tasks.by_name for tasks in found):
            continue
        answered = [tasks.by_name[task] for tasks in found]
        require_same_clips(answered)
        tallies = [task_tally(task, one, normalizer) for one in answered]
        metrics |= metrics_of(repeated(tallies), answered[0], resamples, seed, clip_of)
        of_each |= {
            name: tuple(float(tally.measures[name](tally.total)) for tally in tallies)
            for name in tallies[0].measures
        }
    if not metrics:
        raise PredictionsError(NOTHING)
    notes = [note for rows, tasks in zip(repeats, found, strict=True) for note in warnings_of(rows, tasks)]
    return MeanScores(metrics, of_each, tuple(dict.fromkeys(notes)))


def require_same_clips(answered: Sequence[Answered]) -> None:
    """Checks that several trainings answer the same clips in the same order.

    Raises:
        PredictionsError: naming a clip that they do not share.
    """
    for found in answered[1:]:
        if found.ids != answered[0].ids:
            odd = sorted(set(found.ids) ^ set(answered[0].ids)) or [*found.ids]
            raise PredictionsError(
                f"trainings of one row answer other clips, or in another order: {first_few(odd)}; "
                "their mean needs the same ones"
            )
