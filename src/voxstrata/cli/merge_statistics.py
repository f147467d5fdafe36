"""`voxstrata merge-statistics`."""

from __future__ import annotations

from pathlib import Path

import typer

from voxstrata.cli.lines import tell


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("merge-statistics")(merge_statistics)


def merge_statistics(
    expert: str = typer.Argument(..., help="Run or model folder of an expert for emotions or words."),
    corpora: list[Path] = typer.Option(..., "--corpus", help="Prepared corpus; may be repeated."),
    out: Path = typer.Option(..., "--out", help="File of safetensors to write."),
    kind: str = typer.Option(
        "fisher", "--kind", help="fisher, for the method fisher; or gram, for the method regmean."
    ),
    split: str = typer.Option("train", "--split", help="Whose clips are used."),
    fold: int | None = typer.Option(
        None,
        "--fold",
        min=1,
        help="Fold that the expert was trained on. Default: own splits.",
    ),
    limit: int | None = typer.Option(
        None, "--limit", min=1, metavar="N", help="At most N clips, evenly over the split. Default: all."
    ),
) -> None:
    """Measure an expert on recordings, for the merge methods fisher and regmean.

    Give the file to `voxstrata merge --statistics NAME=FILE`. It belongs to the weights that it was measured
    on: a merge refuses it for other ones. `gram` takes much disk space, a square matrix per linear layer.
    """
    from voxstrata.analysis.merge_statistics import measure_statistics
    from voxstrata.cli.progress import bar

    with bar("clips") as (_, advance):
        clips = measure_statistics(
            expert, corpora, out, kind=kind, split=split, fold=fold, limit=limit, progress=advance
        )
    tell(f"measured on {clips:,} clips")
    typer.echo(str(out))
