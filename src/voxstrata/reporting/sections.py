"""What the page of a run shows, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxstrata.errors import counted as number_of
from voxstrata.evaluation.shown import METRICS
from voxstrata.evaluation.tasks import tasks_in
from voxstrata.predictions import Prediction
from voxstrata.reporting.answer_tables import Mistake, TranscriptPair, confident_mistakes, transcript_sample
from voxstrata.reporting.contents import RunContents
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
from voxstrata.reporting.heading import TASKS
from voxstrata.reporting.reliability import reliability_figure
from voxstrata.reporting.scores import (
    DimensionScores,
    EmotionScores,
    Score,
    SplitScores,
    TranscriptScores,
)
from voxstrata.reporting.wording import counted, metric_title, percent

#: Provenance shown first, in this order; whatever else the file holds follows.
_FIRST = ("commit", "started", "finished", "seed", "device", "machine", "threads", "data", "parents")


@dataclass(frozen=True)
class Headline:
    """A metric of the page's cards."""

    name: str
    about: str
    score: Score


@dataclass(frozen=True)
class TaskPart:
    """What the page shows of a task: its clips and speakers in words, cards, word errors, figures."""

    title: str
    counted: str
    headlines: Sequence[Headline]
    transcript: TranscriptScores | None
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class SplitSection:
    """What the page shows of one split."""

    name: str
    slug: str
    counted: str
    scores: SplitScores | None
    parts: Sequence[TaskPart]
    mistakes: Sequence[Mistake]
    transcripts: Sequence[TranscriptPair]
    failures: Sequence[tuple[str, str]]
    rows: int


def split_section(contents: RunContents, split: str) -> SplitSection:
    """Numbers, figures and tables of a split."""
    scores = contents.scores.get(split)
    predictions = contents.predictions.get(split, ())
    return SplitSection(
        name=split,
        slug=slug(split),
        counted=counted(scores.clips, scores.speakers) if scores else "",
        scores=scores,
        parts=_parts(split, scores, predictions) if scores else (),
        mistakes=confident_mistakes(predictions),
        transcripts=transcript_sample(predictions),
        failures=[(p.id, p.error) for p in predictions if p.error is not None],
        rows=len(predictions),
    )


def _parts(split: str, scores: SplitScores, predictions: Sequence[Prediction]) -> list[TaskPart]:
    """Every task of a split, with the clips and speakers that are its own.

    Scores of older versions do not tell these; the predictions do.
    """
    answered = {} if all(task.clips for task in scores.tasks.values()) else tasks_in(predictions).by_name
    parts = []
    for name, task in scores.tasks.items():
        clips, speakers = task.clips, task.speakers
        if clips is None and (rows := answered.get(name)) is not None:
            clips, speakers = len(rows), len({*rows.speakers} - {None})
        drawings = []
        if isinstance(task, EmotionScores):
            figures = split if name not in scores.classes else f"{split}-{name}"
            drawings += [confusion_figure(figures, task)] if task.confusion else []
            drawings += [recall_figure(figures, task)] if task.recall else []
            if task is scores.emotion and scores.calibration and predictions:
                drawn = reliability_figure(figures, predictions, scores.calibration)
                drawings += [drawn] if drawn else []
        field = name if name in scores.classes else ""
        title = TASKS.get(name, name)
        parts.append(
            TaskPart(
                title=title[:1].upper() + title[1:],
                counted=counted(clips, speakers),
                headlines=headlines(task, field),
                transcript=task if isinstance(task, TranscriptScores) else None,
                drawings=drawings,
            )
        )
    return parts


def headlines(task: EmotionScores | TranscriptScores | DimensionScores, field: str = "") -> list[Headline]:
    """The metrics of a task, in the order of `METRICS`.

    Args:
        task: its scores.
        field: of a further class task, of which UAR alone is shown; "" for the others.
    """
    found = []
    for key, (_, about) in METRICS.items():
        score = getattr(task, key, None)
        if score is None or (field and key != "uar"):
            continue
        if key == "uar" and isinstance(task, EmotionScores):
            classes = sum(n > 0 for n in task.support.values()) or len(task.labels)
            about = f"{about}, chance {percent(1 / max(1, classes))}"
        found.append(Headline(metric_title(f"{key}_{field}" if field else key), about, score))
    return found


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
    """Whether dev and test clips were used in training, in sentences; none where that was not looked for."""
    notes = contents.leaks
    if notes is None:
        return []
    lines = [
        f"Leak allowed by the recipe ({leak.name}): {number_of(leak.clips, 'clip')}, such as "
        f"{', '.join(leak.examples)}, by the training of {leak.run}."
        for leak in notes.leaks
    ] or ["No leak was found: no dev or test clip was trained on, and no other clip of its speaker."]
    compared = ", ".join(f"{use} {number_of(clips, 'clip')}" for use, clips in notes.checked.items())
    if compared:
        lines.append(f"Compared by speaker, clip id and audio with: {compared}.")
    if notes.unverified:
        lines.append(f"Could not be checked: {'; '.join(notes.unverified)}.")
    chosen = [both for both in notes.stages if both.second == "test"]
    lines += [f"{both.shared} of {both.of} test clips were also in {both.first}." for both in chosen]
    if twice := [both for both in notes.stages if both.second != "test"]:
        pairs = "; ".join(f"{both.first} and {both.second}: {both.shared} of {both.of}" for both in twice)
        lines.append(f"Used in more than one training, which is no leak: {pairs}.")
    if notes.sentences:
        said = "; ".join(
            f"{percent(both.shared / both.of)} % of {both.second} in {both.first}" for both in notes.sentences
        )
        lines.append(f"Clips whose words, not sound, were in training: {said}.")
    if any(use.startswith("selection ") for use in notes.checked):
        lines.append("(selection: the dev clips by which a run's best weights were chosen)")
    return lines


def provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a run's provenance; what is a hash of content is named as such."""
    return [
        (f"{name} (fingerprint)" if name.startswith(("data.", "weights.")) else name, value)
        for name, value in flat(provenance)
    ]


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
