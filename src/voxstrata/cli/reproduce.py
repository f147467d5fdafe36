"""`voxstrata reproduce`: a whole table of experiments."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voxstrata.cli.dry_run import DRY_RUN, TFLOPS, assumptions, refuse_without_dry_run
from voxstrata.cli.lines import one_line

if TYPE_CHECKING:
    from voxstrata.experiments.tables.pieces import Chosen, Piece


CORPUS = typer.Option(
    None,
    "--corpus",
    metavar="NAME=FOLDER",
    help="Use the prepared corpus in FOLDER for the table's NAME; may be repeated.",
)
ARCHIVE = typer.Option(
    None, "--archive", help="File (.tar.xz) for predictions and recipes, from which the table can be rebuilt."
)
ANSWERS = typer.Option(
    None,
    "--answers",
    metavar="PATH",
    help="The same from archives alone (files of --archive, folders, patterns); may be repeated.",
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("reproduce")(reproduce)


def reproduce(
    table: str = typer.Argument(..., help="A packaged table, such as adaltm, or a YAML file."),
    scale: str = typer.Option(..., "--scale", help="A scale of the table, such as demo or real."),
    data: Path | None = typer.Option(None, "--data", help="Folder of the corpora. Default: VOXSTRATA_DATA."),
    corpus: list[str] | None = CORPUS,
    out: Path = typer.Option(Path("runs"), "--out", help="Folder for runs, corpora and tables."),
    only: str | None = typer.Option(
        None, "--only", help="Only these rows (comma-separated) and the runs that they need."
    ),
    fold: int | None = typer.Option(None, "--fold", help="Only this fold."),
    part: int | None = typer.Option(None, "--part", help="Only this part of the training speakers."),
    seed: int | None = typer.Option(None, "--seed", help="Only this seed."),
    as_table: bool = typer.Option(False, "--table", help="Write the table of such a selection too."),
    results: Path | None = typer.Option(
        None, "--results", help="Markdown file whose section for this table and scale is rewritten."
    ),
    archive: Path | None = ARCHIVE,
    finished: bool = typer.Option(
        False, "--finished", help="Train nothing: a table of the finished runs; others read 'not run'."
    ),
    answers: list[str] | None = ANSWERS,
    dry_run: bool = DRY_RUN,
    tflops: float | None = TFLOPS,
    as_json: bool = typer.Option(
        False, "--json", help="Print the table, the run folders or the dry run as JSON."
    ),
) -> None:
    """Run a table of experiments and print its rows; finished runs are not repeated.

    --only, --fold, --part and --seed select runs, for example one job each; their folders are printed.
    With --finished or --answers nothing is trained.
    """
    from voxstrata.experiments.tables.pieces import WHOLE, Chosen, Piece
    from voxstrata.experiments.tables.table import read_table_spec

    rows = None if only is None else tuple(filter(None, map(str.strip, only.split(","))))
    piece = Piece(rows, fold, part, seed)
    tabled = as_table or finished or bool(answers)
    written = {"--results": results is not None, "--archive": archive is not None}
    _refuse(piece, as_table, {} if tabled or dry_run else written)
    if dry_run:
        as_found = {"--finished": finished, "--answers": bool(answers)}
        _refuse_to_write(written | as_found | {"--table": as_table})
    else:
        refuse_without_dry_run({"--tflops": tflops is not None})
    others = {"--data": data, "--corpus": corpus, "--archive": archive, "--finished": finished}
    _refuse_beside_answers(others if answers and not dry_run else {})
    chosen, ready = Chosen(read_table_spec(table), table, scale, piece), tuple(corpus or ())
    if dry_run:
        _check(chosen, data, out, ready, tflops, as_json)
    elif piece != WHOLE and not tabled:
        runs = [str(run) for run in train_piece(chosen, data, out, ready)]
        typer.echo(json.dumps(runs, indent=2) if as_json else "\n".join(runs))
    elif answers:
        _end(_from_archives(chosen, answers, out), as_json, results)
    else:
        _end(run_table(chosen, data, out, archive, ready, train=not finished), as_json, results)


def _from_archives(chosen: Chosen, answers: Sequence[str], out: Path) -> Path:
    from voxstrata.experiments.tables.unpacked import table_of_archives

    return table_of_archives(chosen, answers, out)


def _end(folder: Path, as_json: bool, results: Path | None) -> None:
    show(folder, as_json)
    if results is not None:
        from voxstrata.experiments.tables.results import write_section

        write_section(results, folder)


def _refuse(piece: Piece, as_table: bool, others: dict[str, bool]) -> None:
    """Refuses what a piece of a table cannot have, and a launcher."""
    from voxstrata.errors import RecipeError
    from voxstrata.experiments.tables.pieces import WHOLE

    if piece != WHOLE and (given := [name for name, there in others.items() if there]):
        raise RecipeError(
            f"{given[0]} is for a whole table; leave it or --only, --fold, --part and --seed out, "
            "or add --table"
        )
    if piece.rows == ():
        raise RecipeError("--only names no row; name rows, separated by commas, or leave it out")
    if as_table and piece == WHOLE:
        raise RecipeError("--table is for a piece: add --only, --fold, --part or --seed, or leave it out")
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise RecipeError(
            f"started {count} times by a launcher; start `train` so, and give each GPU a piece of the table: "
            "CUDA_VISIBLE_DEVICES=0 for the one, =1 for the other, and --only, --fold, --part or --seed"
        )


def _refuse_to_write(written: dict[str, bool]) -> None:
    """Refuses what only a table that was run can give."""
    from voxstrata.errors import RecipeError

    if given := [name for name, there in written.items() if there]:
        raise RecipeError(f"a dry run has no numbers for {given[0]}; leave one of the two out")


def _refuse_beside_answers(others: dict[str, Any]) -> None:
    """Refuses what a table of archives cannot have."""
    from voxstrata.errors import RecipeError

    if given := [name for name, value in others.items() if value]:
        raise RecipeError(f"--answers needs archives alone; leave {', '.join(given)} out")


def train_piece(chosen: Chosen, data: Path | None, out: Path, ready: Sequence[str] = ()) -> list[Path]:
    """Trains a piece of a table under a progress bar; returns the run folders of its rows."""
    from voxstrata.cli.progress import bar
    from voxstrata.experiments.tables.corpora import given_corpora
    from voxstrata.experiments.tables.reproduce import train_part

    given = given_corpora(chosen.scale, ready)
    with bar() as (notify, advance):
        return train_part(
            chosen,
            out=out,
            data=data_root(data),
            given=given,
            notify=notify,
            tick=lambda now: advance(now.done, now.total, f"{now.run} {now.detail}"),
        )


def run_table(
    chosen: Chosen,
    data: Path | None,
    out: Path,
    archive: Path | None = None,
    ready: Sequence[str] = (),
    *,
    train: bool = True,
) -> Path:
    """Runs a table, or a piece of it, under a progress bar; returns its folder."""
    from voxstrata.cli.progress import bar
    from voxstrata.experiments.tables.corpora import given_corpora
    from voxstrata.experiments.tables.reproduce import reproduce as run

    given = given_corpora(chosen.scale, ready)
    with bar() as (notify, advance):
        return run(
            chosen,
            out=out,
            data=data_root(data),
            archive=archive,
            given=given,
            train=train,
            notify=notify,
            tick=lambda now: advance(now.done, now.total, f"{now.run} {now.detail}"),
        )


def data_root(given: Path | None) -> Path | None:
    """The folder of the corpora: as given, else $VOXSTRATA_DATA."""
    if given is None and os.environ.get("VOXSTRATA_DATA"):
        return Path(os.environ["VOXSTRATA_DATA"])
    return given


def _check(
    chosen: Chosen,
    data: Path | None,
    out: Path,
    ready: Sequence[str],
    tflops: float | None,
    as_json: bool,
) -> None:
    from voxstrata.cli.dry_run import show as show_found
    from voxstrata.experiments.dry_run.whole_table import dry_run_table
    from voxstrata.experiments.tables.corpora import given_corpora

    assumed, given = assumptions(tflops), given_corpora(chosen.scale, ready)
    found = dry_run_table(chosen, out=out, data=data_root(data), given=given, assumed=assumed)
    show_found(found, as_json)


def show(folder: Path, as_json: bool) -> None:
    """Prints a table's rows and where it lies."""
    from voxstrata.experiments.tables.results import rich_contrasts, rich_table
    from voxstrata.reporting.runs_table import TABLE_FILE, read_table

    if as_json:
        typer.echo((folder / TABLE_FILE).read_text(encoding="utf-8").rstrip())
        return
    table = read_table(folder)
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(highlight=False)
    wide = console.options.update(max_width=1000)
    for shown in (rich_table(table), rich_contrasts(table)):
        if shown is not None:
            # Wider than the terminal rather than without the rows' names.
            console.width = max(console.width, Measurement.get(console, wide, shown).maximum)
            console.print(shown)
    for warning in table.warnings:
        typer.echo(one_line(f"read with care: {warning}"))
    if table.note:
        typer.echo(one_line(f"note: {table.note}"))
    typer.echo(f"report: {folder / 'report.html'}")
