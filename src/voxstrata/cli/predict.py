"""`voxstrata predict`: emotions with probabilities and transcripts of recordings."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from voxstrata.predictions import Prediction

DEMO_TABLE = Path("tables") / "adaltm-demo"
DEMO_ROW = "dual"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("predict")(predict)


def predict(
    paths: list[Path] = typer.Argument(..., metavar="PATH...", help="Recordings, or folders of them."),
    model: Path | None = typer.Option(
        None, "--model", help="A run or model folder, or a published CTC model; default: the demo's model."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line."),
) -> None:
    """Tell emotion (with the probabilities of all classes) and words of recordings."""
    from voxstrata.inference.recognizer import Recognizer

    files = list(recordings(paths))
    recognizer = Recognizer.load(model or demo_model(Path("runs")))
    for note in recognizer.notes:
        print(f"voxstrata: {note}", file=sys.stderr)
    failed = 0
    for row in recognizer.predictions(files):
        failed += row.error is not None
        if as_json:
            typer.echo(json.dumps(row.as_dict(), ensure_ascii=False))
        elif row.error is not None:
            print(f"{row.path}: {row.error}", file=sys.stderr)
        else:
            typer.echo(readable(row))
    if failed:
        print(f"voxstrata: {failed} of {len(files)} recordings failed", file=sys.stderr)
        raise typer.Exit(3)


def recordings(paths: Iterable[Path]) -> Iterable[Path]:
    """Files as given; folders by the recordings in and below them, sorted.

    Raises:
        AudioError: if a folder holds none.
    """
    from voxstrata.audio import AUDIO_SUFFIXES
    from voxstrata.errors import AudioError

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(
            p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".")
        )
        if not found:
            raise AudioError(f"{path} holds no recordings ({', '.join(sorted(AUDIO_SUFFIXES))})")
        yield from found


def demo_model(runs: Path) -> Path:
    """The run of the demo's main row.

    Raises:
        CheckpointError: if there was no demo here.
    """
    from voxstrata.errors import CheckpointError

    table = runs / DEMO_TABLE / "table.json"
    if not table.is_file():
        raise CheckpointError(
            f"no model: {table} is not there; run `voxstrata demo` here first, or give --model RUN"
        )
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"]
    run = next(row["runs"][0] for row in rows if row["name"] == DEMO_ROW)
    return (table.parent / run).resolve()


def readable(row: Prediction) -> str:
    """A row for people: path, emotion, probabilities from high to low, ratings, further classes, words."""
    from voxstrata.labels import DIMENSIONS

    parts = [str(row.path)]
    if row.probabilities is not None:
        ranked = sorted(row.probabilities.items(), key=lambda item: -item[1])
        parts.append(f"  {row.emotion}  (" + ", ".join(f"{name} {p:.2f}" for name, p in ranked) + ")")
    ratings = {name: value for name in DIMENSIONS if (value := getattr(row, name)) is not None}
    if ratings:
        parts.append("  " + ", ".join(f"{name} {value:.2f}" for name, value in ratings.items()))
    for field, shares in (row.classes or {}).items():
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        parts.append(f"  {field}: " + ", ".join(f"{name} {p:.2f}" for name, p in ranked))
    if row.transcript is not None:
        parts.append(f'  "{row.transcript}"')
    return "\n".join(parts)
