"""What the page of a run shows, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxstrata.reporting.answers import Mistake, TranscriptPair, confident_mistakes, transcript_sample
from voxstrata.reporting.contents import RunContents, Score, SplitScores
from voxstrata.reporting.curves import learning_rate_figure, loss_figure
from voxstrata.reporting.drawing import Drawing
from voxstrata.reporting.figures import (
    coefficient_figure,
    confusion_figure,
    layer_weight_figure,
    recall_figure,
    slug,
)
from voxstrata.reporting.wording import METRICS, percent

#: Provenance shown first, in this order; whatever else the file holds follows.
_FIRST = ("commit", "started", "finished", "seed", "device", "machine", "threads", "data", "parents")


@dataclass(frozen=True)
class Headline:
    """A metric of the page's cards."""

    name: str
    about: str
    score: Score


@dataclass(frozen=True)
class SplitSection:
    """What the page shows of one split."""

    name: str
    slug: str
    scores: SplitScores | None
    headlines: Sequence[Headline]
    drawings: Sequence[Drawing]
    mistakes: Sequence[Mistake]
    transcripts: Sequence[TranscriptPair]
    failures: Sequence[tuple[str, str]]
    rows: int


def split_section(contents: RunContents, split: str) -> SplitSection:
    """Numbers, figures and tables of a split."""
    scores = contents.scores.get(split)
    predictions = contents.predictions.get(split, ())
    emotion = scores.emotion if scores else None
    drawings = []
    if emotion and emotion.confusion:
        drawings.append(confusion_figure(split, emotion))
    if emotion and emotion.recall:
        drawings.append(recall_figure(split, emotion))
    return SplitSection(
        name=split,
        slug=slug(split),
        scores=scores,
        headlines=headlines(scores) if scores else (),
        drawings=drawings,
        mistakes=confident_mistakes(predictions),
        transcripts=transcript_sample(predictions),
        failures=[(p.id, p.error) for p in predictions if p.error is not None],
        rows=len(predictions),
    )


def headlines(scores: SplitScores) -> list[Headline]:
    """The metrics that a split has, in the order of `wording.METRICS`."""
    found = []
    for key, (title, about) in METRICS.items():
        part = scores.transcript if key in ("wer", "cer") else scores.emotion
        score = getattr(part, key, None)
        if score is None:
            continue
        if key == "uar" and scores.emotion is not None:
            classes = sum(n > 0 for n in scores.emotion.support.values()) or len(scores.emotion.labels)
            about = f"{about}, chance {percent(1 / classes)}"
        found.append(Headline(title, about, score))
    return found


def model_drawings(contents: RunContents) -> list[Drawing]:
    """Coefficients and layer weights, where the run has them."""
    drawings = []
    found = contents.coefficients
    if found and found.per_layer:
        drawings.append(coefficient_figure(found))
    if found and found.layer_weights:
        drawings.append(layer_weight_figure(found.layer_weights))
    return drawings


def training_drawings(contents: RunContents) -> list[Drawing]:
    """Curves of the journal so far."""
    if not contents.steps and not contents.validations:
        return []
    rates = learning_rate_figure(contents)
    return [loss_figure(contents), *([rates] if rates else [])]


def progress(contents: RunContents) -> str:
    """How far the journal goes, in words."""
    rows = [*contents.steps, *contents.validations]
    if not rows:
        return "no training steps"
    last = max(rows, key=lambda row: row["step"])
    epoch = f", epoch {last['epoch']}" if "epoch" in last else ""
    return f"{last['step']} steps{epoch}"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested objects, the important ones first."""
    order = {name: index for index, name in enumerate(_FIRST)}
    for name in sorted(values, key=lambda key: (bool(prefix) or order.get(key, len(order)), key)):
        value = values[name]
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "–"
        else:
            yield f"{prefix}{name}", "–" if value is None else str(value)
