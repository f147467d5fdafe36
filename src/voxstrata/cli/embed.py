"""`voxstrata embed`: recordings as vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import tell
from voxstrata.cli.predict_input import DASH, sources_of

if TYPE_CHECKING:
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.inference.embedding import Embedder, Embedding


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("embed")
    def embed(
        paths: list[Path] = typer.Argument(
            None, metavar="PATH...", help="Recordings, folders of them, patterns, or prepared corpora."
        ),
        model: str = typer.Option(
            "whisper-tiny.en",
            "--model",
            help="Encoder: a packaged name, run, folder, file or Hub id.",
        ),
        out: Path = typer.Option(
            ...,
            "--out",
            help="File to write: .npz, .npy (ids in a .csv beside it), or .parquet (needs pyarrow).",
        ),
        layers: bool = typer.Option(
            False, "--layers", help="A vector for each layer: [clips, layers, D] in place of [clips, D]."
        ),
        files_from: Path | None = typer.Option(
            None, "--files-from", help="A file with a path in each line; `-` for standard input."
        ),
        limit: int | None = typer.Option(
            None, "--limit", min=1, help="At most N recordings of each folder or corpus."
        ),
        split: str | None = typer.Option(
            None, "--split", help="Split of prepared corpora. Default: all of them."
        ),
        fold: int | None = typer.Option(
            None, "--fold", help="Fold of prepared corpora. Default: their own splits."
        ),
    ) -> None:
        """Write recordings as vectors: the mean over the frames of an encoder's last state, or of each layer.

        Each row has its recording's id and path beside it. Recordings are run one by one, those above 30 s in
        equal parts. One that fails is named, and the rest is written (exit code 3).
        """
        from voxstrata.errors import CorpusError
        from voxstrata.inference.embedding import Embedder, gathered
        from voxstrata.inference.embedding_files import require_writable, write_embeddings

        require_writable(out)
        sources = sources_of(paths or [], files_from)
        if all(isinstance(source, list) for source in sources) and (split, fold) != (None, None):
            raise CorpusError(
                "--split and --fold are of prepared corpora, and none was given; leave them out"
            )
        embedder = Embedder.load(model, layers=layers)
        found = gathered(_rows(embedder, sources, limit, split, fold), embedder.shape)
        write_embeddings(found, out)
        shape = " x ".join(f"{size:,}" for size in found.vectors.shape)
        typer.echo(f"{out}: {shape} ({'clips, layers, features' if layers else 'clips, features'})")
        if found.errors:
            tell(f"{len(found.errors)} of {len(found) + len(found.errors)} recordings failed")
            raise typer.Exit(3)


def _rows(
    embedder: Embedder,
    sources: list[PreparedCorpus | list[Path]],
    limit: int | None,
    split: str | None,
    fold: int | None,
) -> Iterator[Embedding]:
    """The vectors of all sources; faults are named as they come."""
    import sys
    from itertools import islice

    from voxstrata.cli.progress import bar

    lengths = [len(source[:limit]) for source in sources if isinstance(source, list)]
    total, done = sum(lengths), 0
    with bar("recordings") as (notify, advance):
        for source in sources:
            if isinstance(source, list):
                given = (sys.stdin.buffer if path == DASH else path for path in source[:limit])
                found = embedder.embeddings(given)
            else:
                found = islice(embedder.corpus_embeddings(source, split, fold), limit)
            for one in found:
                done += 1
                if one.error is not None:
                    notify(f"{one.path or one.id}: {one.error}")
                yield one
                advance(done, max(done, total), one.id)
