"""`voxstrata demo`: the main job on the embedded default."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

TABLE, SCALE = "adaltm", "demo"
#: What the other process says.
LOG = "demo.log"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    out: Path = typer.Option(Path("runs"), "--out", help="Folder for runs, corpora and tables."),
) -> None:
    """Fine-tune two experts on synthetic speech, merge them and compare (eight minutes on two cores).

    The same as `voxstrata reproduce adaltm --scale demo`, shared by two processes; the log of the second is
    demo.log beside the runs. Needs the extra `synth`. Started again, it resumes.
    """
    import torch

    from voxstrata.cli.program import program
    from voxstrata.cli.reproduce import run_table, show, train_piece
    from voxstrata.experiments.tables.pieces import Chosen, Piece
    from voxstrata.experiments.tables.table import read_table_spec

    table = read_table_spec(TABLE)
    if (os.cpu_count() or 1) > 1:
        out.mkdir(parents=True, exist_ok=True)
        rows = tuple(row.run for row in table.shown(table.scale(SCALE)))
        threads = torch.get_num_threads()
        # Two processes of one thread are faster than one of two. Each does what the other is not just doing.
        torch.set_num_threads(1)
        with _beside(out, rows):
            train_piece(Chosen(table, TABLE, SCALE, Piece(rows=rows)), None, out)
        torch.set_num_threads(threads)
    # What the other process did not finish is done here, and fails here if it has to.
    folder = run_table(Chosen(table, TABLE, SCALE), None, out)
    show(folder, as_json=False)
    typer.echo(f"try it: {program()} predict PATH/TO/RECORDINGS")


@contextmanager
def _beside(out: Path, rows: Sequence[str]) -> Iterator[None]:
    """Trains rows in a second process, and waits for it in the end."""
    arguments = ["reproduce", TABLE, "--scale", SCALE, "--out", str(out), "--only", ",".join(rows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (out / LOG).open("wb") as log:
        beside = subprocess.Popen(
            [sys.executable, "-m", "voxstrata.cli.main", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            yield
            beside.wait()
        finally:
            if beside.poll() is None:
                beside.terminate()
                beside.wait()
