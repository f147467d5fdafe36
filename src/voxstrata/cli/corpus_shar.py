"""`voxstrata corpus shar`."""

from __future__ import annotations

from pathlib import Path

import typer


def register(corpus_app: typer.Typer) -> None:
    """Adds `shar` to the group `corpus`."""
    corpus_app.command("shar")(write)


def write(
    prepared: Path = typer.Argument(help="A prepared corpus."),
    out: Path = typer.Argument(help="New or empty folder; a prepared corpus too, with all its audio."),
    shard_clips: int = typer.Option(1000, "--shard-clips", min=1, help="Clips in a tar."),
) -> None:
    """Pack a prepared corpus and its audio into tars (lhotse Shar), to copy and to train from."""
    from voxstrata.cli.progress import bar
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.corpora.shar import write_shar

    corpus = PreparedCorpus.load(prepared)
    total = corpus.summary.splits["all"].clips
    with bar("clips") as (_, advance):
        packed = write_shar(
            corpus, out, shard_clips=shard_clips, progress=lambda done: advance(done, total, corpus.name)
        )
    typer.echo(packed.folder)
