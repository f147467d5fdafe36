"""What the page of a run shows, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxstrata.reporting.answers import Mistake, TranscriptPair, confident_mistakes, transcript_sample
from voxstrata.reporting.contents import EmotionScores, RunContents, Score, SplitScores
from voxstrata.reporting.curves import learning_rate_figure, loss_figure
from voxstrata.reporting.drawing import Drawing
from voxstrata.reporting.figures import (
    coefficient_figure,
    confusion_figure,
    layer_weight_figure,
    recall_figure,
    slug,
)
from voxstrata.reporting.fusion_figures import fusion_drawings
from voxstrata.reporting.wording import METRICS, metric_title, percent

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
    drawings = []
    for name, classes in _class_tasks(split, scores).items():
        if classes.confusion:
            drawings.append(confusion_figure(name, classes))
        if classes.recall:
            drawings.append(recall_figure(name, classes))
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
        parts = (scores.emotion, scores.transcript, scores.dimensions)
        score = next((given for part in parts if (given := getattr(part, key, None)) is not None), None)
        if score is None:
            continue
        if key == "uar" and scores.emotion is not None:
            classes = sum(n > 0 for n in scores.emotion.support.values()) or len(scores.emotion.labels)
            about = f"{about}, chance {percent(1 / classes)}"
        found.append(Headline(title, about, score))
    for field, task in scores.classes.items():
        if task.uar is not None:
            about = f"unweighted average recall, chance {percent(1 / max(1, len(task.labels)))}"
            found.append(Headline(metric_title(f"uar_{field}"), about, task.uar))
    return found


def _class_tasks(split: str, scores: SplitScores | None) -> dict[str, EmotionScores]:
    """Name of a figure -> scores of emotion, and of further class tasks."""
    if scores is None:
        return {}
    found = {} if scores.emotion is None else {split: scores.emotion}
    return found | {f"{split}-{field}": classes for field, classes in scores.classes.items()}


def model_drawings(contents: RunContents) -> list[Drawing]:
    """Coefficients, layer weights and fusion weights, where the run has them."""
    drawings = []
    found = contents.coefficients
    if found and found.per_layer:
        drawings.append(coefficient_figure(found))
    if found and found.layer_weights:
        drawings.append(layer_weight_figure(found.layer_weights))
    return [*drawings, *(fusion_drawings(contents.fusion) if contents.fusion else ())]


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


def leak_lines(contents: RunContents) -> list[str]:
    """What of the run's training meets its dev and test clips; none where that was not looked for."""
    notes = contents.leaks
    if notes is None:
        return []
    compared = ", ".join(f"{use} {clips}" for use, clips in notes.checked.items())
    lines = [f"Training clips compared with dev and test by speaker, id and audio: {compared}."]
    lines += [
        f"Allowed by the recipe: {leak.name} of {leak.run}, {leak.found} found in {leak.clips} clips "
        f"({', '.join(leak.examples)})."
        for leak in notes.leaks
    ] or ["None meets them."]
    lines += [
        f"{both.first} has the sentences of {percent(both.shared / both.of)} % of {both.second}."
        for both in notes.sentences
    ]
    lines += [
        f"{both.first} has {both.shared} of the {both.of} clips of {both.second}." for both in notes.stages
    ]
    return [*lines, *(f"Not verified: {line}." for line in notes.unverified)]


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
