"""`voxstrata prompts`: what sets the layer weights of a HarmoniFuse run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import one_line, tell

if TYPE_CHECKING:
    from rich.console import Console

    from voxstrata.analysis.prompt_swap import PromptSwaps, Shares, SwappedPair
    from voxstrata.batches.source import BatchSource
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.methods.harmonifuse.system import HarmoniFuse

BATCH_CLIPS = 8
#: Swap in JSON -> heading in print.
HEADINGS = {"own": "own", "prompt": "prompt", "scalars": "s", "both": "both"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("prompts")(prompts)


def prompts(
    run: Path = typer.Argument(..., help="A HarmoniFuse run or its model folder, with two tasks or more."),
    corpus: Path = typer.Option(..., "--corpus", help="A prepared corpus; only its recordings are used."),
    fold: int | None = typer.Option(
        None, "--fold", min=1, help="Fold of the corpus. Default: its own splits."
    ),
    split: str = typer.Option("test", "--split", help="Split whose clips are used."),
    clips: int | None = typer.Option(
        None, "--clips", min=1, help="Most clips, chosen by seed. Default: all."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Random seed of that choice."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure what sets HarmoniFuse's layer weights alpha: the prompt, the scalars s or the clip.

    Each clip is run for every task: with its own prompt and s, with those of each other task, and with
    prompts between two. Distances are total variation, 0 to 1; shares are of the variance of the scores.
    Encoder gate and head stay those of the task. What a run does not have is n/a, with a note.
    """
    from voxstrata.analysis.prompt_swap import swap_prompts
    from voxstrata.cli.progress import bar
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.experiments.provenance import provenance
    from voxstrata.inference.path import fastest_device

    prepared = PreparedCorpus.load(corpus)
    source = drawn_clips(prepared, split=split, fold=fold, count=clips, seed=seed)
    model = prompted_model(run).to(fastest_device())
    with bar("clips") as (_, advance):
        found = swap_prompts(
            model, source.epoch(0), lambda done: advance(done, len(source), "swapping prompts")
        )
    for note in found.notes:
        tell(note, "note")
    if as_json:
        about = provenance(
            seed=seed, fingerprints={str(corpus): prepared.fingerprint}, parents={"model": str(run)}
        )
        settings = {"fold": fold, "split": split, "clips": clips, "seed": seed}
        stated = {"run": str(run), "corpus": prepared.name, "settings": settings}
        typer.echo(json.dumps({**stated, **found.as_dict(), "provenance": about}, indent=2))
    where = f"{prepared.name}, {split}" + (f" of fold {fold}" if fold else "")
    typer.echo(one_line(f"{run} on {where}: {found.clips} clips"), err=as_json)
    print_swaps(found, err=as_json)


def prompted_model(source: Path) -> HarmoniFuse:
    """The model of a HarmoniFuse run, in eval mode.

    Raises:
        CheckpointError: if there is no model, or it is of another kind.
    """
    from voxstrata.errors import CheckpointError
    from voxstrata.methods.harmonifuse.folder import HARMONIFUSE
    from voxstrata.methods.harmonifuse.system import HarmoniFuse
    from voxstrata.methods.model_folder import find_model, load_model, model_kind

    folder = find_model(source)
    if folder is None:
        raise CheckpointError(f"{source} holds no model: give a finished run of the system harmonifuse")
    if (kind := model_kind(folder)) != HARMONIFUSE.name:
        raise CheckpointError(
            f"{source} holds a model of kind {kind!r}, which has no prompts: give a run of the system "
            "harmonifuse"
        )
    model = load_model(folder)
    assert isinstance(model, HarmoniFuse)
    return model


def drawn_clips(
    corpus: PreparedCorpus, *, split: str, fold: int | None, count: int | None, seed: int
) -> BatchSource:
    """Whole clips of a split, each once, from short to long; decoded audio is not kept.

    Args:
        corpus: whose clips they are.
        split: of the fold.
        fold: of the corpus; None: its own division.
        count: at most so many, drawn by seed; None: all.
        seed: of the draw.

    Raises:
        CorpusError: if split or fold does not exist, or has no clips.
    """
    from voxstrata.batches.buckets import drawn
    from voxstrata.batches.source import BatchOptions, BatchSource

    found = partial(corpus.stream, split, fold)
    return BatchSource(
        found() if count is None else drawn(found, count, seed),
        BatchOptions(batch_size=BATCH_CLIPS, shuffle=False, cache_bytes=0),
    )


def print_swaps(found: PromptSwaps, *, err: bool = False) -> None:
    """Tables of alpha for each pair, its path, the shares of variance, and the changed answers."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, stderr=err)
    for pair in found.pairs:
        _print_alpha(console, pair)
    _print_paths(console, found)
    if found.shares is not None:
        _print_shares(console, found.shares)
    _print_changed(console, found)


def _print_alpha(console: Console, pair: SwappedPair) -> None:
    own = pair.alpha["own"]
    if own is None:
        return
    console.print(f"alpha of {pair.asked}, swapped for {pair.other}", soft_wrap=True)
    rows = [
        [str(layer), *(_shown(None if alpha is None else alpha[layer - 1]) for alpha in pair.alpha.values())]
        for layer in range(1, len(own) + 1)
    ]
    rows.append(["distance", "-", *(_shown(distance) for distance in pair.distance.values())])
    _print_rows(console, ["layer", *HEADINGS.values()], rows)


def _print_paths(console: Console, found: PromptSwaps) -> None:
    paths = {f"{pair.asked} to {pair.other}": pair.path for pair in found.pairs if pair.path is not None}
    if not paths:
        return
    console.print("distance of alpha along prompts from the own one to the other's, with the own s")
    rows = [[name, *(_shown(point.distance) for point in path)] for name, path in paths.items()]
    shares = [f"{point.share:.3g}" for point in next(iter(paths.values()))]
    _print_rows(console, ["share of the other", *shares], rows)


def _print_shares(console: Console, shares: Shares) -> None:
    console.print("shares of the variance of the scores, over tasks, clips and layers")
    stated = {
        "s": shares.scalars,
        "network, mean over clips": shares.network_mean,
        "network, beyond that mean": shares.network_variation,
    }
    _print_rows(
        console, ["part", "percent"], [[name, f"{100 * value:.2f}"] for name, value in stated.items()]
    )


def _print_changed(console: Console, found: PromptSwaps) -> None:
    pairs = [pair for pair in found.pairs if pair.changed["prompt"] is not None]
    if not pairs:
        return
    console.print("clips whose class changes, in percent")
    swaps = list(HEADINGS)[1:]
    rows = [
        [f"{pair.asked}, swapped for {pair.other}", *(_percent(pair.changed[swap]) for swap in swaps)]
        for pair in pairs
    ]
    _print_rows(console, ["task", *(HEADINGS[swap] for swap in swaps)], rows)


def _print_rows(console: Console, headings: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(headings[0], box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"
