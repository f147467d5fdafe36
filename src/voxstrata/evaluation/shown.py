"""Scores and comparisons as people read them: titles, percent, rows of tables, small HTML tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxstrata.evaluation.calibration import CalibrationScores
    from voxstrata.evaluation.comparison import Comparison, Difference
    from voxstrata.evaluation.metrics import Metric
    from voxstrata.evaluation.recognition import WordErrors
    from voxstrata.evaluation.score import Scores

#: Metric in `metrics.json` -> name in print, and what it is.
METRICS = {
    "uar": ("UAR", "unweighted average recall"),
    "precision": ("Precision", "macro average over classes"),
    "macro_f1": ("Macro-F1", "mean F1 of the classes"),
    "accuracy": ("Accuracy", "share of clips right"),
    "wer": ("WER", "word error rate, lower is better"),
    "cer": ("CER", "character error rate, lower is better"),
    "ccc": ("CCC", "mean concordance of ratings"),
    "ccc_arousal": ("CCC arousal", "concordance with the annotators"),
    "ccc_valence": ("CCC valence", "concordance with the annotators"),
    "ccc_dominance": ("CCC dominance", "concordance with the annotators"),
}

#: Of the rows that `metric_rows` and `difference_rows` give.
METRIC_HEADINGS = ("percent", "value", "95 % by clip", "95 % by speaker")
DIFFERENCE_HEADINGS = ("percent", "A", "B", "B - A", "95 % of B - A", "detectable", "resampled")

#: The metric that stands for a task where there is room for one.
_MAIN = ("uar", "wer", "ccc")


def metric_and_field(name: str) -> tuple[str | None, str]:
    """A known metric, and of which further class task: METRIC_FIELD.

    >>> metric_and_field("wer"), metric_and_field("uar_gender"), metric_and_field("other")
    (('wer', ''), ('uar', 'gender'), (None, ''))
    """
    if name in METRICS:
        return name, ""
    of = max((key for key in METRICS if name.startswith(f"{key}_")), key=len, default=None)
    return of, "" if of is None else name.removeprefix(f"{of}_")


def title(name: str) -> str:
    """Of a metric; that of a further class task with the task.

    >>> title("wer"), title("uar_gender"), title("other")
    ('WER', 'UAR gender', 'other')
    """
    metric, field = metric_and_field(name)
    return name if metric is None else " ".join(filter(None, (METRICS[metric][0], field)))


def percent(value: float) -> str:
    """A rate in [0, 1] in percent.

    >>> percent(0.41265)
    '41.27'
    """
    return f"{100 * value:.2f}"


def bounds(interval: tuple[float, float] | None) -> str:
    """An interval in percent.

    >>> bounds((0.4, 0.5)), bounds(None)
    ('[40.00, 50.00]', '-')
    """
    return "-" if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"


def clips_of(clips: int, speakers: int) -> str:
    """Clips and their speakers.

    >>> clips_of(48, 0)
    '48 clips, unknown speakers'
    """
    return f"{clips} clips, {speakers or 'unknown'} speakers"


def clips_line(found: Scores | Comparison) -> str:
    """What was scored, and how clips without an answer were counted."""
    counted = "counted as wrong" if found.errors == "wrong" else "left out"
    lost = f", {found.unanswered} WITHOUT AN ANSWER ({counted})" if found.unanswered else ""
    return f"{clips_of(found.clips, found.speakers)}{lost}"


def word_errors_line(errors: WordErrors) -> str:
    """Word errors by kind: counts, and rates of the reference words."""
    kinds = (f"{name} {count} ({percent(count / errors.words)} %)" for name, count in errors.by_kind.items())
    return ", ".join(kinds)


def calibration_line(scores: CalibrationScores) -> str:
    """How far probabilities hold, in one line."""
    error, brier = scores.metrics["ece"], scores.metrics["brier"]
    return (
        f"probabilities of {scores.clips} clips: expected calibration error {percent(error.value)} % "
        f"{bounds(error.speaker or error.iid)}, Brier score {brier.value:.3f}"
    )


def metrics_in(scores: Scores) -> dict[str, Metric]:
    """All metrics by name; those of further class tasks as METRIC_FIELD."""
    metrics: dict[str, Metric] = {}
    for task in (scores.emotion, scores.transcript, scores.dimensions):
        metrics |= task.metrics if task else {}
    for field, classes in scores.classes.items():
        metrics |= {f"{name}_{field}": found for name, found in classes.metrics.items()}
    return metrics


def metric_rows(scores: Scores) -> list[tuple[str, ...]]:
    """A row a metric, under `METRIC_HEADINGS`."""
    return [
        (title(name), percent(found.value), bounds(found.iid), bounds(found.speaker))
        for name, found in metrics_in(scores).items()
    ]


def difference_rows(differences: Mapping[str, Difference]) -> list[tuple[str, ...]]:
    """A row a metric, under `DIFFERENCE_HEADINGS`."""
    return [
        (
            title(name),
            percent(found.a),
            percent(found.b),
            f"{100 * found.difference:+.2f}",
            bounds(found.interval),
            percent(found.smallest),
            f"{found.unit}s",
        )
        for name, found in differences.items()
    ]


def verdict_lines(found: Comparison) -> list[str]:
    """Which system is better in emotions and words, or what a verdict lacks."""
    lines = [value.missing for value in found.differences.values() if value.missing]
    for name, value in found.differences.items():
        if name in ("uar", "wer") and not value.missing:
            better = "B" if (value.difference > 0) == (name == "uar") else "A"
            lines.append(f"{title(name)}: {f'{better} is better' if value.shown else 'no difference shown'}")
    return list(dict.fromkeys(lines))


def metrics_in_line(metrics: Mapping[str, Metric]) -> str:
    """One metric a task with its interval, in percent, e.g. "UAR 71.20 [65.10, 77.00]"."""
    shown = {name: found for name, found in metrics.items() if (metric_and_field(name)[0] or name) in _MAIN}
    return ", ".join(
        f"{title(name)} {percent(found.value)} {bounds(found.speaker or found.iid)}"
        for name, found in (shown or metrics).items()
    )


def scores_in_line(scores: Scores) -> str:
    """Clips and one metric a task, in one line."""
    return f"{clips_line(scores)}; {metrics_in_line(metrics_in(scores))}"


def differences_in_line(found: Comparison) -> str:
    """Clips and the difference B - A of one metric a task, in one line."""
    shown = ", ".join(
        f"{title(name)} {100 * value.difference:+.2f} {bounds(value.interval)}"
        for name, value in found.differences.items()
        if (metric_and_field(name)[0] or name) in _MAIN
    )
    return f"{clips_line(found)}; B - A: {shown}"


def scores_html(scores: Scores) -> str:
    """A small table of the metrics, with the warnings below."""
    return html_table(clips_line(scores), METRIC_HEADINGS, metric_rows(scores), scores.warnings)


def comparison_html(found: Comparison) -> str:
    """A small table of the differences, with verdicts and warnings below."""
    notes = (*verdict_lines(found), *found.warnings)
    return html_table(clips_line(found), DIFFERENCE_HEADINGS, difference_rows(found.differences), notes)


def html_table(
    caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()
) -> str:
    """A plain HTML table for a notebook; all text is escaped.

    Args:
        caption: above it.
        headings: of its columns.
        rows: as many cells as headings each; the first is what the row is about.
        notes: lines below it.

    >>> html_table("<1>", ["a"], [["b & c"]])
    '<table><caption>&lt;1&gt;</caption><tr><th>a</th></tr><tr><th>b &amp; c</th></tr></table>'
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    lines = (
        f"<th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}"
        for first, *rest in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in (head, *lines))
    foot = "".join(f'<tr><td colspan="{len(headings)}">{escape(note)}</td></tr>' for note in notes)
    return f"<table><caption>{escape(caption)}</caption>{body}{foot}</table>"
