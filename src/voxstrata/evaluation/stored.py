"""Scores read back from JSON, as `Scores.as_dict` wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxstrata.evaluation.calibration import CalibrationScores
from voxstrata.evaluation.metrics import Metric
from voxstrata.evaluation.recognition import WordErrors
from voxstrata.evaluation.score import DimensionScores, EmotionScores, Scores, TranscriptScores

_KINDS = ("substitutions", "deletions", "insertions")


def scores_from(about: Mapping[str, Any]) -> Scores:
    """The scores of one predictions file.

    Args:
        about: what `Scores.as_dict` gave; an older file may lack clips and speakers of a task.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is something else.
    """
    clips, speakers = int(about["clips"]), int(about["speakers"])
    # What a task of an older file does not tell is what the whole file has.
    whole = {"clips": clips, "speakers": speakers}
    return Scores(
        clips=clips,
        speakers=speakers,
        emotion=_emotion({**whole, **about["emotion"]}) if "emotion" in about else None,
        transcript=_transcript({**whole, **about["transcript"]}) if "transcript" in about else None,
        dimensions=_dimensions({**whole, **about["dimensions"]}) if "dimensions" in about else None,
        classes={name: _emotion({**whole, **part}) for name, part in about.get("classes", {}).items()},
        unanswered=int(about.get("unanswered", 0)),
        errors=str(about.get("errors", "wrong")),
        warnings=tuple(map(str, about.get("warnings", ()))),
        calibration=_calibration(about["calibration"]) if "calibration" in about else None,
    )


def _metrics(part: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics of a task: what has a value and intervals."""
    return {
        name: Metric(
            _number(found["value"]),
            _interval(found["iid"]),
            None if found["speaker"] is None else _interval(found["speaker"]),
        )
        for name, found in part.items()
        if isinstance(found, Mapping) and {"value", "iid", "speaker"} <= found.keys()
    }


def _interval(bounds: Any) -> tuple[float, float]:
    low, high = map(_number, bounds)
    return low, high


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _emotion(part: Mapping[str, Any]) -> EmotionScores:
    return EmotionScores(
        labels=tuple(part["labels"]),
        metrics=_metrics(part),
        recall=dict(part["recall"]),
        support=dict(part["support"]),
        confusion=tuple(tuple(map(int, row)) for row in part["confusion"]),
        clips=int(part["clips"]),
        speakers=int(part["speakers"]),
    )


def _transcript(part: Mapping[str, Any]) -> TranscriptScores:
    return TranscriptScores(
        normalizer=str(part["normalizer"]),
        metrics=_metrics(part),
        errors=WordErrors(words=int(part["words"]), **{kind: int(part[kind]["count"]) for kind in _KINDS}),
        characters=int(part["characters"]),
        clips=int(part["clips"]),
        speakers=int(part["speakers"]),
    )


def _calibration(part: Mapping[str, Any]) -> CalibrationScores:
    return CalibrationScores(int(part["clips"]), _metrics(part))


def _dimensions(part: Mapping[str, Any]) -> DimensionScores:
    return DimensionScores(int(part["clips"]), int(part["speakers"]), _metrics(part))
