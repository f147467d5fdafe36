"""`voxstrata evaluate`: scores of predictions files, whoever wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from rich.console import Console

    from voxstrata.evaluation.recognition import WordErrors
    from voxstrata.evaluation.score import EmotionScores, Metric, Scores
    from voxstrata.predictions import Prediction

#: Metric in `metrics.json` -> name in print.
TITLES = {
    "uar": "UAR",
    "precision": "macro precision",
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "wer": "WER",
    "cer": "CER",
    "ccc": "CCC, mean",
    "ccc_arousal": "CCC of arousal",
    "ccc_valence": "CCC of valence",
    "ccc_dominance": "CCC of dominance",
}

#: A terminal has no room for the confusion of more classes.
WIDEST_CONFUSION = 10


NORMALIZER = typer.Option(
    "basic",
    help="Of transcripts: none, basic, no-apostrophe, spelled (by letter);"
    " 'basic without say' ignores 'say'.",
)
BY = typer.Option(
    None,
    metavar="COLUMN",
    help="Score parts separately, by a column of --corpus such as LibriSpeech's subset.",
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    predictions: list[Path] = typer.Argument(
        help="Predictions files (JSON lines, of any system), run folders, or - for standard input."
    ),
    split: str | None = typer.Option(None, help="Split of run folders. Default: test."),
    pool: bool = typer.Option(
        False, "--pool", help="Score all files as one, such as the folds of one corpus."
    ),
    by: str | None = BY,
    corpus: Path | None = typer.Option(None, help="Prepared corpus of the clips, for --by."),
    normalizer: str = NORMALIZER,
    errors: str = typer.Option(
        "wrong", help="Clips without a prediction: wrong (count as wrong) or leave-out."
    ),
    labels: str | None = typer.Option(
        None, help="Emotions allowed, comma-separated. Default: all that occur."
    ),
    prior: str | None = typer.Option(
        None, help="Adjust to this class prior: uniform, name=share,... or a JSON file; with --train-prior."
    ),
    train_prior: str | None = typer.Option(
        None, help="Class prior of the training data: as --prior, or corpus.json of a prepared corpus."
    ),
    resamples: int = typer.Option(
        1000, min=2, max=1_000_000, help="Bootstrap samples, by clip and by speaker."
    ),
    seed: int = typer.Option(0, min=0, help="Random seed of the bootstrap."),
    as_json: bool = typer.Option(
        False, "--json", help="Print JSON: the scores, or {name: scores} for several files or parts."
    ),
) -> None:
    """Score predictions files: UAR, precision, macro F1, accuracy, WER, CER, CCC, with 95 % intervals.

    A row needs id and, for what is to be scored, emotion with reference_emotion, transcript with
    reference_transcript, or arousal, valence, dominance with reference_arousal and so on. Probabilities
    that are not finite or do not sum to 1, duplicate keys and NaN are refused with line and field.

    Scored is `emotion`; rows where it is not the most probable class are counted in a warning.
    Predictions reflect the class prior of the training data: --prior and --train-prior adjust the
    probabilities to another one. That is exact for plain cross-entropy; a class-balanced loss,
    voxstrata's default, has removed part of the prior already.
    """
    from voxstrata.evaluation.score import score

    files = _parts(_read_files(predictions, split, prior, train_prior, pool), by, corpus)
    scores = {
        name: score(
            rows,
            normalizer=normalizer,
            resamples=resamples,
            seed=seed,
            labels=listed(labels),
            errors=errors,
        )
        for name, rows in files.items()
    }
    _print(scores, as_json)


def _print(scores: dict[str, Scores], as_json: bool) -> None:
    from rich.console import Console

    for name, found in scores.items():
        for warning in found.warnings:
            tell(f"{name}: {warning}", "warning")
    if as_json:
        rows = [found.as_dict() for found in scores.values()]
        content = rows[0] if len(rows) == 1 else dict(zip(scores, rows, strict=True))
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False)
    for name, found in scores.items():
        _print_scores(console, name, found)


def _read_files(
    paths: list[Path], split: str | None, prior: str | None, train_prior: str | None, pool: bool
) -> dict[str, list[Prediction]]:
    from voxstrata.cli.predictions_given import read_given
    from voxstrata.evaluation.answers import pooled

    files = dict(read_given(paths, split))
    if prior is not None or train_prior is not None:
        files = {name: _for_prior(name, rows, prior, train_prior) for name, rows in files.items()}
    return {f"{len(files)} files pooled": pooled(files)} if pool else files


def _parts(
    files: dict[str, list[Prediction]], by: str | None, corpus: Path | None
) -> dict[str, list[Prediction]]:
    from voxstrata.cli.predictions_given import parts_of
    from voxstrata.errors import PredictionsError

    if by is None and corpus is None:
        return files
    if by is None or corpus is None:
        given, lacking = ("--by", "--corpus") if corpus is None else ("--corpus", "--by")
        raise PredictionsError(
            f"{given} needs {lacking}: a column of a prepared corpus tells the part of a clip"
        )
    parts: dict[str, list[Prediction]] = {}
    for name, rows in files.items():
        parts |= parts_of(name, rows, corpus, by)
    return parts


def _for_prior(
    name: str, rows: list[Prediction], prior: str | None, train_prior: str | None
) -> list[Prediction]:
    from voxstrata.errors import PredictionsError
    from voxstrata.evaluation.priors import adjust, read_prior

    if prior is None or train_prior is None:
        given, lacking = ("--prior", "--train-prior") if train_prior is None else ("--train-prior", "--prior")
        raise PredictionsError(f"{given} needs {lacking}: both priors enter the adjustment")
    found = adjust(rows, read_prior(train_prior), read_prior(prior))
    tell(
        f"{name}: probabilities of {found.adjusted} rows adjusted from the prior {train_prior} to {prior}; "
        f"{found.changed} answers changed",
        "",
    )
    return found.predictions


def listed(names: str | None) -> list[str] | None:
    """Names of a comma-separated option."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def clips_line(clips: int, speakers: int, unanswered: int, errors: str) -> str:
    """What was scored, and how clips without an answer were counted."""
    counted = "counted as wrong" if errors == "wrong" else "left out"
    lost = f", {unanswered} WITHOUT AN ANSWER ({counted})" if unanswered else ""
    return f"{_clips_of(clips, speakers)}{lost}"


def task_lines(scores: Scores) -> list[str]:
    """The clips of each task, where a task has not all of them."""
    counts = {name: _clips_of(task.clips, task.speakers) for name, task in scores.tasks.items()}
    if set(counts.values()) == {_clips_of(scores.clips, scores.speakers)}:
        return []
    return [f"  {name}: {told}" for name, told in counts.items()]


def _clips_of(clips: int, speakers: int) -> str:
    return f"{clips} clips, {speakers or 'unknown'} speakers"


def word_errors_line(errors: WordErrors) -> str:
    """Word errors by kind: counts, and rates of the reference words."""
    kinds = (f"{name} {count} ({percent(count / errors.words)} %)" for name, count in errors.by_kind.items())
    return ", ".join(kinds)


def percent(value: float) -> str:
    """A rate in [0, 1] in percent."""
    return f"{100 * value:.2f}"


def bounds(interval: tuple[float, float] | None) -> str:
    """An interval in percent."""
    return "-" if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"


def _print_scores(console: Console, name: str, scores: Scores) -> None:
    from rich import box
    from rich.table import Table

    console.print(name, soft_wrap=True)
    console.print(clips_line(scores.clips, scores.speakers, scores.unanswered, scores.errors), soft_wrap=True)
    for line in task_lines(scores):
        console.print(line, soft_wrap=True)
    table = Table("percent", box=box.SIMPLE)
    for heading in ("value", "95 % by clip", "95 % by speaker"):
        table.add_column(heading, justify="right", no_wrap=True)
    metrics: dict[str, Metric] = {}
    for task in (scores.emotion, scores.transcript, scores.dimensions):
        metrics |= {TITLES[metric]: found for metric, found in (task.metrics if task else {}).items()}
    for field, classes in scores.classes.items():
        metrics |= {f"{TITLES[metric]} {field}": found for metric, found in classes.metrics.items()}
    for title, found in metrics.items():
        table.add_row(title, percent(found.value), bounds(found.iid), bounds(found.speaker))
    console.print(table)
    if scores.transcript:
        normalizer, errors = scores.transcript.normalizer, scores.transcript.errors
        console.print(f"WER over {errors.words} reference words, normaliser: {normalizer}", soft_wrap=True)
        console.print(f"{word_errors_line(errors)}\n", soft_wrap=True)
    if scores.emotion:
        _print_classes(console, scores.emotion)
    for classes in scores.classes.values():
        _print_classes(console, classes)


def _print_classes(console: Console, scores: EmotionScores) -> None:
    from rich import box
    from rich.table import Table

    wide = len(scores.labels) > WIDEST_CONFUSION
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    for heading in ("clips", "recall", *(() if wide else (f"{name[:4]}" for name in scores.labels))):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, counts in zip(scores.labels, scores.confusion, strict=True):
        recall = scores.recall[name]
        shown = "-" if recall is None else percent(recall)
        table.add_row(name, str(scores.support[name]), shown, *(() if wide else map(str, counts)))
    console.print(table)
    more = (
        "The confusion of so many classes is in --json."
        if wide
        else "Columns count what each class was taken for."
    )
    console.print(more, soft_wrap=True)
