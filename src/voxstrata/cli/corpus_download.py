"""`voxstrata corpus download`: a corpus from its owner, once its licence is accepted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import asked, tell

if TYPE_CHECKING:
    from voxstrata.corpora.published import PublishedCorpus


def register(group: typer.Typer) -> None:
    """Adds the command to the group `corpus`."""
    group.command("download")(download_corpus)


def download_corpus(
    name: str = typer.Argument(help="ravdess, tess, an4 or librispeech."),
    out: Path | None = typer.Argument(None, help="New folder for it. Default: corpora/NAME."),
    part: list[str] | None = typer.Option(
        None, "--part", help="A part, such as dev-clean of librispeech; may be repeated."
    ),
    accept: bool = typer.Option(
        False, "--accept-licence", help="Accept the corpus's licence without being asked."
    ),
) -> None:
    """Fetch a corpus from its owner's address, check it and unpack it.

    Its licence is shown and asked for. A download that was stopped goes on where it was. The folder is
    there once all is unpacked, or not at all. The last line printed is the command that prepares it.
    """
    from voxstrata.cli.program import program
    from voxstrata.cli.progress import bar
    from voxstrata.corpora.download import download
    from voxstrata.corpora.published import published

    corpus, parts = published(name), tuple(part or ())
    folder = Path("corpora") / name if out is None else out
    _show(corpus, parts)
    _require_accepted(corpus, accept)
    with bar("bytes") as (_, advance):
        read = download(corpus, folder, parts=parts, progress=advance)
    tell(f"{corpus.title} is in {folder}; prepare it with:", "")
    shown = folder / corpus.inside if not folder.is_absolute() else read
    prepared = Path("prepared") / name
    typer.echo(shlex.join([*shlex.split(program()), "corpus", "prepare", name, str(shown), str(prepared)]))


def _show(corpus: PublishedCorpus, parts: tuple[str, ...]) -> None:
    from voxstrata.corpora.download import download_size

    size = download_size(corpus, parts)
    what = ", ".join(parts or corpus.default) if len(corpus.parts) > 1 else "whole"
    tell(f"{corpus.title}: {what}{'' if size is None else f', {size / 1e6:,.0f} MB'}; {corpus.page}", "")
    tell(f"licence: {corpus.licence}; {corpus.licence_url}", "")


def _require_accepted(corpus: PublishedCorpus, accepted: bool) -> None:
    from voxstrata.errors import CorpusError

    if accepted:
        return
    if not on_terminal():
        raise CorpusError(
            f"the licence of {corpus.name} is not accepted; read it at {corpus.licence_url} and start "
            "again with --accept-licence"
        )
    if not asked("Do you accept this licence?"):
        raise CorpusError(f"the licence of {corpus.name} is not accepted, and nothing was fetched")


def on_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()
