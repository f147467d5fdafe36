"""`voxstrata curve`: what a fine-tune costs in words, and how much of it a merge gives back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from voxstrata.analysis.coefficient_curve import Point

TITLES = {"uar": "UAR", "wer_ctc": "WER, CTC head of the base", "wer_decoder": "WER, Whisper's decoder"}
DEFAULT = "0,0.25,0.5,0.75,1,1.25,1.5"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("curve")(curve)


def curve(
    expert: str = typer.Argument(..., help="A finished run for emotions, with its head."),
    base: str | None = typer.Option(None, "--base", help="Its base. Default: as in its recipe."),
    emotions: Path = typer.Option(..., "--emotions", help="Prepared corpus to predict emotions on."),
    fold: int | None = typer.Option(None, "--fold", min=1, help="Its fold. Default: its own splits."),
    words: Path = typer.Option(..., "--words", help="Prepared corpus to transcribe."),
    ctc: str | None = typer.Option(None, "--ctc", help="A run with a CTC head on the same base."),
    transcriber: str | None = typer.Option(
        None, "--transcriber", help="A whole Whisper whose decoder transcribes from the merged encoder."
    ),
    at: str = typer.Option(DEFAULT, "--at", help="Coefficients, comma-separated."),
    normalizer: str = typer.Option("basic", "--normalizer", help="Of transcripts, as in evaluate."),
    out: Path = typer.Option(Path("curve"), "--out", help="Folder for curve.json, curve.svg and curve.csv."),
) -> None:
    """Measure emotions and words of base + c (expert - base), one coefficient c for all layers.

    On test splits; nothing is trained. At 0 it is the base, at 1 the expert.
    """
    from voxstrata.analysis.coefficient_curve import (
        Readers,
        coefficient_curve,
        ctc_head_of,
        emotion_model_of,
    )
    from voxstrata.cli.progress import bar
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.experiments.provenance import provenance
    from voxstrata.reporting.coefficient_curve import curve_figure
    from voxstrata.runs import write_json

    coefficients = _numbers(at)
    found = _base_of(expert) if base is None else base
    readers = Readers(
        emotion_model_of(expert), None if ctc is None else ctc_head_of(ctc), transcriber, normalizer
    )
    spoken, acted = PreparedCorpus.load(words), PreparedCorpus.load(emotions)
    with bar("passes") as (_, advance):
        points = coefficient_curve(
            found,
            expert,
            readers,
            coefficients,
            emotions=lambda: _batches(acted, fold),
            words=lambda: _batches(spoken, None),
            advance=advance,
        )
    about = provenance(
        seed=0,
        fingerprints={str(emotions): acted.fingerprint, str(words): spoken.fingerprint},
        parents={"base": found, "expert": expert} | ({} if ctc is None else {"ctc": ctc}),
    )
    stated: dict[str, Any] = {"fold": fold, "transcriber": transcriber, "normalizer": normalizer}
    write_json(out / "curve.json", {**stated, "points": [p.as_dict() for p in points], "provenance": about})
    curve_figure([point.as_dict() for point in points]).save(out)
    typer.echo(text(points))
    typer.echo(f"figure: {out / 'curve.svg'}")


def text(points: list[Point]) -> str:
    """Coefficients as rows, in percent with 95 % intervals by speaker."""
    names = [name for name in TITLES if name in points[0].scores]
    columns = [["coefficient", *(f"{point.coefficient:g}" for point in points)]]
    for name in names:
        columns.append([TITLES[name], *(_shown(point, name) for point in points)])
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    clips = ", ".join(f"{points[0].clips[name]} clips for {TITLES[name]}" for name in names)
    return "\n".join([*rows, "", f"percent [95 %, by resampling speakers]; {clips}"])


def _shown(point: Point, name: str) -> str:
    metric = point.scores[name]
    low, high = metric.speaker or metric.iid
    return f"{100 * metric.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _numbers(at: str) -> list[float]:
    from voxstrata.documents import as_number
    from voxstrata.errors import RecipeError

    found = list(dict.fromkeys(as_number(part) for part in at.split(",")))
    if not all(abs(value) <= 10 for value in found):
        raise RecipeError(f"--at is {at!r}; give numbers from -10 to 10 with commas between, e.g. {DEFAULT}")
    return found


def _base_of(expert: str) -> str:
    from voxstrata.errors import RecipeError
    from voxstrata.methods.registry import method_of
    from voxstrata.recipes.reading import read_run_recipe
    from voxstrata.runs import RunFolder

    base, run = None, RunFolder(Path(expert))
    if run.recipe.is_file():
        recipe = read_run_recipe(run)
        base = method_of(recipe).facts(recipe).base
    if base is None:
        raise RecipeError(f"{expert} does not name the base that it was fine-tuned from; give --base")
    return base


def _batches(corpus: Any, fold: int | None) -> Any:
    from voxstrata.batches.source import BatchOptions, BatchSource

    options = BatchOptions(batch_size=8, shuffle=False, cache_bytes=0)
    return BatchSource(corpus.stream("test", fold), options).epoch(0)
