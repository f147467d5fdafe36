"""`voxstrata predict`: emotions with probabilities and transcripts of recordings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.inference.recognizer import Recognizer
    from voxstrata.predictions import Prediction

DEMO_TABLE = Path("tables") / "adaltm-demo"
DEMO_ROW = "joint"
#: Columns of the table before those of classes and ratings, and behind them.
_FIRST, _LAST = ("path", "emotion"), ("transcript", "note", "error")


LANGUAGE = typer.Option(
    None,
    "--language",
    help="Language of Whisper's transcripts, such as en. Default: detected in each clip.",
)
MODEL = typer.Option(
    None,
    "--model",
    help="A run or model folder, a published CTC model or a whole Whisper. Default: the demo's model.",
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("predict")(predict)


def predict(
    paths: list[Path] = typer.Argument(
        ..., metavar="PATH...", help="Recordings, folders of them, or prepared corpora."
    ),
    model: Path | None = MODEL,
    transcriber: Path | None = typer.Option(
        None, "--transcriber", help="A whole Whisper that transcribes: a folder, or a downloaded Hub id."
    ),
    language: str | None = LANGUAGE,
    words: str | None = typer.Option(
        None,
        "--words",
        help="Encoder of Whisper's decoder: its own (plain) or the model's (merged). Default: plain.",
    ),
    split: str | None = typer.Option(None, "--split", help="Split of prepared corpora. Default: test."),
    fold: int | None = typer.Option(
        None, "--fold", help="Fold of prepared corpora. Default: their own splits."
    ),
    limit: int | None = typer.Option(
        None, "--limit", min=1, help="At most N recordings of each folder or corpus, for a quick try."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print a predictions file: one JSON object per line."),
    as_csv: bool = typer.Option(
        False, "--csv", help="Print a table: one row per recording, one column per class."
    ),
) -> None:
    """Predict emotion (with the probabilities of all classes) and words of recordings.

    Of a prepared corpus each row also has the references, ready for `voxstrata evaluate`. A recording that
    fails is named, and the rest goes on (exit code 3): silence, or one too long: 30 s for Whisper, for others
    what fits 2 GiB of attention per layer. `note` marks telephone speech and other doubtful input.
    """
    from voxstrata.errors import CorpusError, VoxstrataError
    from voxstrata.inference.recognizer import Recognizer

    if as_json and as_csv:
        raise VoxstrataError("--json and --csv were both given; choose one")
    sources = once([_source(path) for path in paths])
    if all(isinstance(source, list) for source in sources) and (split, fold) != (None, None):
        raise CorpusError("--split and --fold are of prepared corpora, and none was given; leave them out")
    recognizer = Recognizer.load(
        _model(model, transcriber is not None), transcriber=transcriber, language=language, words=words
    )
    for note in recognizer.notes:
        tell(note)
    counts = {"all": 0, "failed": 0}
    rows = _counted(_rows(sources, recognizer, split or "test", fold, limit), counts)
    if as_csv:
        for line in table_lines(rows):
            _print(line)
    else:
        for row in rows:
            _show(row, as_json)
    if counts["failed"]:
        tell(f"{counts['failed']} of {counts['all']} recordings failed")
        raise typer.Exit(3)


def _counted(rows: Iterable[Prediction], counts: dict[str, int]) -> Iterator[Prediction]:
    for row in rows:
        counts["all"] += 1
        counts["failed"] += row.error is not None
        yield row


def _show(row: Prediction, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row.as_dict(), ensure_ascii=not _speaks_utf8()))
    elif row.error is not None:
        tell(f"{row.path}: {row.error}", "")
    else:
        _print(readable(row))


def _model(given: Path | None, transcribes: bool) -> Path | None:
    """The model to ask; None where there is none, and a transcriber answers alone."""
    from voxstrata.errors import CheckpointError

    if given is not None:
        return given
    try:
        return demo_model(Path("runs"))
    except CheckpointError:
        if not transcribes:
            raise
        tell("no emotions: there is no demo here, and no --model was given")
        return None


def _source(path: Path) -> PreparedCorpus | list[Path]:
    """What a path stands for: a prepared corpus, or recordings."""
    from voxstrata.corpora.prepared import CORPUS_FILE, PreparedCorpus

    try:
        if (path / CORPUS_FILE).is_file():
            return PreparedCorpus.load(path)
        return recordings(path) if path.is_dir() else [path]
    except OSError:
        # Where one may not look, the recording's row says so.
        return [path]


def once(sources: Iterable[PreparedCorpus | list[Path]]) -> list[PreparedCorpus | list[Path]]:
    """Each recording and each corpus once, where it comes first, and says what came again.

    A link is what it leads to. Files with the same content are several recordings.
    """
    seen: set[str] = set()
    again: list[Path] = []

    def new(path: Path) -> bool:
        place = os.path.realpath(path)
        if place in seen:
            again.append(path)
            return False
        seen.add(place)
        return True

    kept: list[PreparedCorpus | list[Path]] = []
    for source in sources:
        if not isinstance(source, list):
            kept += [source] if new(source.folder) else []
        elif left := list(filter(new, source)):
            kept.append(left)
    if again:
        more = ", ..." if len(again) > 3 else ""
        tell(f"{len(again)} given again, answered once: {', '.join(map(str, again[:3]))}{more}")
    return kept


def _rows(
    sources: Iterable[PreparedCorpus | list[Path]],
    recognizer: Recognizer,
    split: str,
    fold: int | None,
    limit: int | None,
) -> Iterator[Prediction]:
    for source in sources:
        if isinstance(source, list):
            yield from recognizer.predictions(source[:limit])
            continue
        batches = recognizer.batches_of(source, split, fold, limit=limit)
        for reason, clips in batches.left_out.items():
            tell(f"{source.folder}: {clips} clips left out: {reason}")
        yield from recognizer.corpus_predictions(batches)


def _speaks_utf8() -> bool:
    """Whether standard output takes any text; paths and words may be in any script."""
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"


def _print(text: str) -> None:
    """Prints what standard output cannot spell escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def recordings(folder: Path) -> list[Path]:
    """The recordings in a folder and below it, sorted; says what is passed over.

    Folders below it that may not be looked into stand among them, to fail by their own names.

    Raises:
        AudioError: if there are none.
    """
    from voxstrata.audio import AUDIO_SUFFIXES, folder_content
    from voxstrata.errors import AudioError

    content = folder_content(folder)
    found = sorted([*content.recordings, *content.unreadable])
    told = content.account()
    if not found:
        held = f"; it has {told}" if told else ""
        raise AudioError(f"{folder} holds no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}){held}")
    if told:
        tell(f"{folder}: passed over: {told}")
    return found


def demo_model(runs: Path) -> Path:
    """The run of the demo's main row.

    Raises:
        CheckpointError: if there was no demo here.
    """
    from voxstrata.documents import read_json_object
    from voxstrata.errors import CheckpointError

    table = runs / DEMO_TABLE / "table.json"
    if not table.is_file():
        raise CheckpointError(
            f"no model: {table} is not there; run `voxstrata demo` here first, or give --model RUN"
        )
    advice = "run `voxstrata demo` again, or give --model RUN"
    rows = read_json_object(table, error=CheckpointError, advice=advice).get("rows")
    try:
        runs_of = {row["name"]: row["runs"] for row in rows or ()}
        run: str = runs_of[DEMO_ROW][0]
        return (table.parent / run).resolve()
    except (KeyError, TypeError, IndexError, ValueError):
        raise CheckpointError(f"{table} names no run for the row {DEMO_ROW!r}; {advice}") from None


def table_lines(rows: Iterable[Prediction]) -> Iterator[str]:
    """Rows as lines of CSV, the names of the columns first: what the first answer has, all have.

    Failed rows wait for it; without any answer there are no columns of classes.
    """
    held: list[Prediction] = []
    columns: list[str] | None = None
    for row in rows:
        if columns is None:
            held.append(row)
            if row.error is not None:
                continue
            columns = [*_FIRST, *_numbers(row), *_LAST]
            yield _csv(columns)
            yield from (_csv(_cells(one, columns)) for one in held)
            continue
        yield _csv(_cells(row, columns))
    if columns is None:
        columns = [*_FIRST, *_LAST]
        yield _csv(columns)
        yield from (_csv(_cells(one, columns)) for one in held)


def _numbers(row: Prediction) -> dict[str, float]:
    """Probabilities, ratings and further classes of a row, by column."""
    from voxstrata.labels import DIMENSIONS

    found = {f"probability:{name}": share for name, share in (row.probabilities or {}).items()}
    found |= {name: value for name in DIMENSIONS if (value := getattr(row, name)) is not None}
    for field, shares in (row.classes or {}).items():
        found |= {f"{field}:{name}": share for name, share in shares.items()}
    return found


def _cells(row: Prediction, columns: Iterable[str]) -> list[object]:
    numbers = _numbers(row)
    return [getattr(row, name) if name in (*_FIRST, *_LAST) else numbers.get(name) for name in columns]


def _csv(cells: Iterable[object]) -> str:
    """A line of CSV without its end; a cell without a value is empty."""
    import csv
    import io

    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def readable(row: Prediction) -> str:
    """A row for people: path, emotion, probabilities from high to low, ratings, classes, words, note."""
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
    if row.note is not None:
        parts.append(f"  note: {row.note}")
    return "\n".join(parts)
