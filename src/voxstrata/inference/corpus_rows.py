"""Rows of the clips of a prepared corpus: a clip that fails is named, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from voxstrata.batches.batch import Batch
from voxstrata.batches.processes import Share
from voxstrata.batches.source import BatchSource
from voxstrata.inference.rows import asked_only, reason
from voxstrata.predictions import Prediction

Answers = Callable[[Iterable[Batch]], Iterator[Prediction]]


def corpus_rows(answers: Answers, source: BatchSource) -> Iterator[Prediction]:
    """One row a clip, with its references; one that fails has `error`.

    Args:
        answers: to batches, a row a clip.
        source: of the corpus.
    """
    plan, done = source.plan(0), 0
    asked: set[str] = set()
    while done < len(plan):
        batches = source.epoch(0, skip=done)
        for ids in plan[done:]:
            try:
                rows, failed = list(answers([next(batches)])), False
            except Exception:
                # Once more, clip by clip, to see which one it was; then on behind this batch.
                rows, failed = [_alone(answers, source, done, k, ids) for k in range(len(ids))], True
            asked |= {name for row in rows if row.error is None for name in row.as_dict()}
            yield from (row if row.error is None else asked_only(row, asked) for row in rows)
            done += 1
            if failed:
                break


def _alone(answers: Answers, source: BatchSource, batch: int, place: int, ids: Sequence[str]) -> Prediction:
    """The row of one clip of a batch."""
    try:
        (row,) = answers([next(source.shared(Share(place, len(ids))).epoch(0, skip=batch))])
    except Exception as fault:
        (about,) = source.without_audio([ids[place]]).references
        ratings = {f"reference_{name}": value for name, value in (about.ratings or {}).items()}
        fields: dict[str, Any] = {
            "reference_emotion": about.emotion,
            "reference_transcript": about.transcript,
            "reference_classes": about.classes,
            **ratings,
        }
        return Prediction(about.id, about.path, about.speaker, error=reason(fault), **fields)
    return row
