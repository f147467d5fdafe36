"""`voxstrata evaluate`: scores of predictions files, whoever wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import tell
from voxstrata.evaluation.shown import (
    METRIC_HEADINGS,
    calibration_line,
    clips_line,
    clips_of,
    metric_rows,
    percent,
    word_errors_line,
)

if TYPE_CHECKING:
    from rich.console import Console

    from voxstrata.evaluation.score import EmotionScores, Scores
    from voxstrata.predictions import Prediction

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
    from voxstrata.cli.predictions_given import DASH, read_given
    from voxstrata.errors import PredictionsError, counted
    from voxstrata.evaluation.answers import pooled

    if twice := sorted({str(path) for path in paths if path != DASH and paths.count(path) > 1}):
        raise PredictionsError(f"{twice[0]} is given twice; give each file once")
    files = dict(read_given(paths, split))
    if prior is not None or train_prior is not None:
        files = {name: _for_prior(name, rows, prior, train_prior) for name, rows in files.items()}
    return {f"{counted(len(files), 'file')} pooled": pooled(files)} if pool else files


def _parts(
    files: dict[str, list[Prediction]], by: str | None, corpus: Path | None
) -> dict[str, list[Prediction]]:
    from voxstrata.errors import PredictionsError
    from voxstrata.notebook.scoring import rows_by_column

    if by is None and corpus is None:
        return files
    if by is None or corpus is None:
        given, lacking = ("--by", "--corpus") if corpus is None else ("--corpus", "--by")
        raise PredictionsError(
            f"{given} needs {lacking}: a column of a prepared corpus holds the part of a clip"
        )
    return {
        f"{name} ({by} {part})": those
        for name, rows in files.items()
        for part, those in rows_by_column(name, rows, corpus, by).items()
    }


def _for_prior(
    name: str, rows: list[Prediction], prior: str | None, train_prior: str | None
) -> list[Prediction]:
    from voxstrata.evaluation.priors import adjust_as_given

    found = adjust_as_given(rows, prior, train_prior)
    tell(
        f"{name}: probabilities of {found.adjusted} rows adjusted from the prior {train_prior} to {prior}; "
        f"{found.changed} answers changed",
        "",
    )
    return found.predictions


def listed(names: str | None) -> list[str] | None:
    """Names of a comma-separated option."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def task_lines(scores: Scores) -> list[str]:
    """The clips of each task, where a task has not all of them."""
    counts = {name: clips_of(task.clips, task.speakers) for name, task in scores.tasks.items()}
    if set(counts.values()) == {clips_of(scores.clips, scores.speakers)}:
        return []
    return [f"  {name}: {stated}" for name, stated in counts.items()]


def _print_scores(console: Console, name: str, scores: Scores) -> None:
    from rich import box
    from rich.table import Table

    console.print(name, soft_wrap=True)
    console.print(clips_line(scores), soft_wrap=True)
    for line in task_lines(scores):
        console.print(line, soft_wrap=True)
    first, *headings = METRIC_HEADINGS
    table = Table(first, box=box.SIMPLE)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in metric_rows(scores):
        table.add_row(*row)
    console.print(table)
    if scores.transcript:
        normalizer, errors = scores.transcript.normalizer, scores.transcript.errors
        console.print(f"WER over {errors.words} reference words, normaliser: {normalizer}", soft_wrap=True)
        console.print(f"{word_errors_line(errors)}\n", soft_wrap=True)
    if scores.emotion:
        _print_classes(console, scores.emotion)
    for classes in scores.classes.values():
        _print_classes(console, classes)
    if scores.calibration:
        console.print(calibration_line(scores.calibration), soft_wrap=True)


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
