"""What can be said of a result after the work: answers that cannot be right, or that a yardstick beats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from voxstrata.config.data import CorpusUse, Data
from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.score import score
from voxstrata.experiments.setup import Setup
from voxstrata.heads.task import EMOTION
from voxstrata.labels import LabelSet
from voxstrata.methods.baselines import statistics
from voxstrata.methods.method import MeasuredMethod
from voxstrata.methods.task_sources import TaskSources
from voxstrata.predictions import Prediction

#: Most training and asked clips together whose acoustic statistics are computed for the comparison.
MOST_CLIPS = 2_000

Notify = Callable[[str], None]


def result_warnings(
    setup: Setup,
    answers: Mapping[str, Sequence[Prediction]],
    metrics: Mapping[str, Mapping[str, Any]],
    notify: Notify,
) -> dict[str, list[str]]:
    """Split -> lines about answers that cannot be right, or that a simple yardstick does better.

    Where emotions were learned, the last split (test, or else dev) is also answered by acoustic statistics
    and an SVM, learned from the same training clips.

    Args:
        setup: of the run.
        answers: split -> its predictions.
        metrics: split -> its scores, as `metrics.json` holds them.
        notify: receives a line where there are too many clips for the yardstick.
    """
    found = {split: list(answer_warnings(rows, metrics[split])) for split, rows in answers.items()}
    if answers:
        split = list(answers)[-1]
        found[split] += _below_statistics(setup, split, answers[split], metrics[split], notify)
    return {split: lines for split, lines in found.items() if lines}


def answer_warnings(rows: Sequence[Prediction], metrics: Mapping[str, Any]) -> Iterator[str]:
    """What answers tell of themselves: no words, one class for all, no better than chance.

    Args:
        rows: of one split.
        metrics: their scores, as `metrics.json` holds them.
    """
    yield from _transcript_warnings(rows)
    scored = {
        "": metrics.get("emotion"),
        **{f"{field}: ": s for field, s in metrics.get("classes", {}).items()},
    }
    for name, scores in scored.items():
        if scores is not None:
            yield from (f"{name}{line}" for line in _class_warnings(scores))


def _transcript_warnings(rows: Sequence[Prediction]) -> Iterator[str]:
    asked = [row for row in rows if row.reference_transcript and row.transcript is not None]
    texts = [str(row.transcript).strip() for row in asked]
    empty = sum(not text for text in texts)
    if asked and empty * 2 >= len(texts):
        yield (
            f"{empty} of {len(texts)} transcripts are empty: the head has learned little but CTC's blank; "
            "train longer (training.epochs), or raise rates.head"
        )
    elif len({row.reference_transcript for row in asked}) > 1 and len(set(texts)) == 1:
        yield f"all {len(texts)} transcripts are the same, {texts[0]!r}: no words are recognised"


def _class_warnings(scores: Mapping[str, Any]) -> Iterator[str]:
    asked = [name for name, count in scores["support"].items() if count]
    if len(asked) < 2:
        return
    answered = [
        name
        for name, counts in zip(scores["labels"], zip(*scores["confusion"], strict=True), strict=True)
        if sum(counts)
    ]
    chance, uar = 1 / len(asked), scores["uar"]
    bounds = {"clip": uar["iid"], "speaker": uar["speaker"]}
    by, low = min(
        ((by, bound[0]) for by, bound in bounds.items() if bound is not None), key=lambda pair: pair[1]
    )
    if len(answered) == 1:
        yield (
            f"all clips are answered {answered[0]}, of {len(asked)} classes that there are: train longer "
            "(training.epochs), or with other rates"
        )
    elif low <= chance:
        yield (
            f"UAR {100 * uar['value']:.1f} (95 % interval by {by} from {100 * low:.1f}) is not above chance, "
            f"{100 * chance:.1f} with {len(asked)} classes: nothing was learned that holds for new clips, or "
            "there are too few clips to judge"
        )


def _below_statistics(
    setup: Setup,
    split: str,
    rows: Sequence[Prediction],
    metrics: Mapping[str, Any],
    notify: Notify,
) -> list[str]:
    """A line where acoustic statistics and an SVM do better on the same clips."""
    learned = _emotions_of(setup)
    if learned is None or "emotion" not in metrics:
        return []
    corpora, labels, heard = learned
    asked = {row.id for row in rows if row.reference_emotion is not None}
    if (count := heard + len(asked)) > MOST_CLIPS:
        notify(
            f"{split}: not held against acoustic statistics, of {count:,} clips (over {MOST_CLIPS:,}); "
            "the recipe "
            "statistics does that"
        )
        return []
    data = Data(corpora=corpora, labels=labels.names)
    baseline = statistics.StatisticsRecipe(seed=setup.recipe.seed, data=data)
    try:
        batches = statistics.METHOD.sources(baseline)
        batches = replace(batches, evaluated={split: batches.evaluated[split]})
        answers = statistics.METHOD.answers(baseline, batches, notify)[split]
        reached = score([row for row in answers if row.id in asked], resamples=2).as_dict()["emotion"]["uar"][
            "value"
        ]
    except (VoxstrataError, ValueError) as fault:
        # A yardstick that cannot be had is no fault of the run.
        notify(f"{split}: not held against acoustic statistics: {fault}")
        return []
    own = metrics["emotion"]["uar"]["value"]
    if own >= reached:
        return []
    return [
        f"UAR {100 * own:.1f} is below the {100 * reached:.1f} of acoustic statistics and an SVM on the "
        "same clips (recipe "
        "statistics): what the encoder knows is not used; train longer (training.epochs), or with other rates"
    ]


def _emotions_of(setup: Setup) -> tuple[tuple[CorpusUse, ...], LabelSet, int] | None:
    """Corpora, classes and training clips of what learns emotions as classes; None where nothing does."""
    if isinstance(setup.method, MeasuredMethod):
        return None
    sources = setup.sources
    data = setup.recipe.data
    if isinstance(sources, TaskSources):
        for task in sources.tasks:
            if task.field == EMOTION and task.labels is not None:
                corpora = setup.facts.tasks[task.name].corpora or data.corpora
                return corpora, task.labels, len(sources.train.sources[task.name])
        return None
    if sources.labels is None:
        return None
    return data.corpora, sources.labels, len(sources.train)
