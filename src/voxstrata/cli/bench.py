"""`voxstrata bench`: what things cost, beside the ways they are compared with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.benchmarks.measure import Progress
    from voxstrata.benchmarks.result import BenchmarkResult

Options = TypeVar("Options")

SHAPE = typer.Option("base", "--shape", help="WavLM of this shape: base or large.")
BATCH_SIZE = typer.Option(4, "--batch-size", min=1, help="Clips in a batch.")
CLIP_S = typer.Option(3.0, "--clip-s", min=0.1, max=600, help="Length of each clip in seconds.")
AS_JSON = typer.Option(False, "--json", help="Print JSON.")
QUICK = typer.Option(False, "--quick", help="Tiny shapes, to check that it runs; the figures mean nothing.")
REPEATS = typer.Option(5, "--repeats", min=1, help="Timed runs per implementation and case.")
THREADS = typer.Option(None, "--threads", min=1, help="Threads of torch. Default: torch's choice.")


def register(app: typer.Typer) -> None:
    """Adds the group `bench`; each command is one module of `voxstrata.benchmarks`."""
    group = typer.Typer(help="Measure time and memory, interleaved with what they are compared with.",
                        no_args_is_help=True)  # fmt: skip
    group.command("attention")(attention)
    group.command("lambda-step")(lambda_step)
    group.command("cached")(cached)
    group.command("harmonifuse")(harmonifuse)
    group.command("merge-files")(merge_files)
    group.command("predict")(predict)
    app.add_typer(group, name="bench")


def attention(
    shape: str = SHAPE,
    batch_size: int = BATCH_SIZE,
    clips_s: str = typer.Option("2,5,10,20", "--clips", help="Lengths of clips in seconds: a,b,c."),
    dropout: bool = typer.Option(False, "--dropout", help="Train mode with dropout; else eval mode."),
    repeats: int = REPEATS,
    threads: int | None = THREADS,
    quick: bool = QUICK,
    as_json: bool = AS_JSON,
) -> None:
    """Compare the fast attention with transformers' own, forward and forward with backward."""
    from voxstrata.benchmarks.attention import AttentionOptions, run
    from voxstrata.documents import as_number
    from voxstrata.errors import VoxstrataError

    lengths = tuple(as_number(part) for part in clips_s.split(","))
    if not all(0.1 <= length <= 600 for length in lengths):
        raise VoxstrataError(
            f"--clips {clips_s!r} are no lengths; give seconds from 0.1 to 600, e.g. 2,5,10,20"
        )
    options = AttentionOptions(
        shape=shape,  # type: ignore[arg-type]  # checked by run, which names what is allowed
        clips_s=lengths,
        batch_size=batch_size,
        repeats=repeats,
        dropout=dropout,
        threads=threads,
    )
    answer(run, options.quick() if quick else options, as_json)


def lambda_step(
    shape: str = typer.Option("large", "--shape", help="WavLM of this shape: base or large."),
    layers: int | None = typer.Option(
        None, "--layers", min=1, metavar="L", help="Transformer layers. Default: those of the shape."
    ),
    vectors: int = typer.Option(2, "--vectors", min=1, metavar="K", help="Task vectors."),
    rank: int = typer.Option(
        16, "--rank", min=1, metavar="R", help="Rank of their matrices, for the way low-rank."
    ),
    vector_dtype: str = typer.Option(
        "float32", "--vector-dtype", help="Their number format: float32, bfloat16 or float16."
    ),
    batch_size: int = BATCH_SIZE,
    clip_s: float = CLIP_S,
    cases: str = typer.Option(
        "all-groups,front-zero,front-kept", "--cases", help="What the task vectors change: a,b,c."
    ),
    ways: str | None = typer.Option(
        None, "--ways", help="Implementations, the reference first: a,b,c. Default: all that are installed."
    ),
    repeats: int = REPEATS,
    threads: int | None = THREADS,
    quick: bool = QUICK,
    as_json: bool = AS_JSON,
) -> None:
    """Compare ways to take one step of learning the coefficients: forward, and backward to all of them."""
    from voxstrata.benchmarks.lambda_step import LambdaStepOptions, run

    options = LambdaStepOptions(
        shape=shape,  # type: ignore[arg-type]  # this and the next two are checked by run
        layers=layers,
        vectors=vectors,
        rank=rank,
        vector_dtype=vector_dtype,  # type: ignore[arg-type]
        batch_size=batch_size,
        clip_s=clip_s,
        cases=_names(cases),  # type: ignore[arg-type]
        ways=None if ways is None else _names(ways),
        repeats=repeats,
        threads=threads,
    )
    answer(run, options.quick() if quick else options, as_json)


def cached(
    shape: str = SHAPE,
    epochs: int = typer.Option(100, "--epochs", min=1, help="Epochs per training."),
    clips: int = typer.Option(40, "--clips", min=10, help="Recordings of noise; a fifth is for validation."),
    clip_s: float = CLIP_S,
    batch_size: int = typer.Option(8, "--batch-size", min=1, help="Clips in a batch."),
    repeats: int = typer.Option(1, "--repeats", min=1, help="Timed trainings per implementation."),
    threads: int | None = THREADS,
    quick: bool = QUICK,
    as_json: bool = AS_JSON,
) -> None:
    """Compare trainings of a static merge: the encoder's states computed once, or in every epoch."""
    from voxstrata.benchmarks.cached import CachedOptions, run

    options = CachedOptions(
        shape=shape,  # type: ignore[arg-type]  # checked by run, which names what is allowed
        epochs=epochs,
        clips=clips,
        clip_s=clip_s,
        batch_size=batch_size,
        repeats=repeats,
        threads=threads,
    )
    answer(run, options.quick() if quick else options, as_json)


def harmonifuse(
    shape: str = typer.Option("base", "--shape", help="Encoder: a WavLM of this shape, base or large."),
    lm_layers: int = typer.Option(12, "--lm-layers", min=1, help="Layers of the language model."),
    lm_size: int = typer.Option(768, "--lm-size", min=64, help="Its feature size; heads of 64."),
    batch_size: int = BATCH_SIZE,
    clip_s: float = typer.Option(5.0, "--clip-s", min=0.1, max=600, help="Length of each clip in seconds."),
    tokens: int = typer.Option(100, "--tokens", min=2, help="Tokens to decode, and of each transcript."),
    corpora: list[Path] | None = typer.Option(
        None, "--corpus", help="Prepared corpus whose padding is counted; may be repeated."
    ),
    repeats: int = REPEATS,
    threads: int | None = THREADS,
    quick: bool = QUICK,
    as_json: bool = AS_JSON,
) -> None:
    """Compare parts of HarmoniFuse with plain ways: decoding, a training step."""
    from voxstrata.benchmarks.harmonifuse import HarmoniFuseBenchOptions, run
    from voxstrata.methods.harmonifuse.options import LMOptions

    options = HarmoniFuseBenchOptions(
        shape=shape,  # type: ignore[arg-type]  # checked by run, which names what is allowed
        lm=LMOptions(layers=lm_layers, size=lm_size, heads=max(1, lm_size // 64), feed_forward=4 * lm_size),
        batch_size=batch_size,
        clip_s=clip_s,
        tokens=tokens,
        corpora=tuple(map(str, corpora or ())),
        repeats=repeats,
        threads=threads,
    )
    answer(run, options.quick() if quick else options, as_json)


def merge_files(
    shape: str = typer.Option(
        "large", "--shape", help="WavLM of this shape, with random weights: base or large."
    ),
    mergekit: str | None = typer.Option(
        None,
        "--mergekit",
        metavar="PYTHON",
        help="Python of an environment with mergekit; else it is left out.",
    ),
    folder: Path | None = typer.Option(
        None,
        "--folder",
        help="Where the files are written (6 GB for large). Default: the system's temporary folder.",
    ),
    repeats: int = typer.Option(3, "--repeats", min=1, help="Runs of each way."),
    threads: int | None = THREADS,
    quick: bool = QUICK,
    as_json: bool = AS_JSON,
) -> None:
    """Compare merges of two experts on disk, whole processes: this package, mergekit's raw mode, load all."""
    from voxstrata.benchmarks.merge_files import MergeFilesOptions, run

    options = MergeFilesOptions(
        shape=shape,  # type: ignore[arg-type]  # checked by run, which names what is allowed
        mergekit=mergekit,
        folder=None if folder is None else str(folder),
        repeats=repeats,
        threads=threads,
    )
    answer(run, options.quick() if quick else options, as_json)
    if mergekit is None:
        tell("mergekit was left out; give --mergekit the Python of an environment with mergekit")


def predict(
    model: str | None = typer.Option(
        None, "--model", help="A run or model folder. Default: small models with new heads."
    ),
    encoder: str = typer.Option("wavlm-tiny", "--encoder", help="Encoder of models with new heads."),
    audio: Path | None = typer.Option(
        None, "--audio", help="Folder of recordings. Default: VOXSTRATA_DATA, else noise."
    ),
    files: int = typer.Option(24, "--files", min=2, help="WAV files of 1 to 30 s that are cut from them."),
    compared: int = typer.Option(
        100, "--compared", min=1, help="Recordings answered with and without 8 bits, to compare."
    ),
    batch_sizes: str = typer.Option(
        "1,2,4,8", "--batch-sizes", help="Of the pipelines; the fastest is taken: a,b,c."
    ),
    repeats: int = typer.Option(3, "--repeats", min=1, help="Timed runs of each way."),
    threads: int | None = THREADS,
    quick: bool = QUICK,
    as_json: bool = AS_JSON,
) -> None:
    """Compare predict with transformers' pipelines on a folder of mixed lengths, and with its own 8 bits."""
    from voxstrata.benchmarks.predict import PredictOptions, run
    from voxstrata.errors import VoxstrataError

    sizes = [int(part) if part.isdecimal() else 0 for part in _names(batch_sizes)]
    if not all(0 < size <= 1024 for size in sizes):
        raise VoxstrataError(
            f"--batch-sizes {batch_sizes!r} are no sizes; give whole numbers from 1 to 1024, e.g. 1,2,4,8"
        )
    options = PredictOptions(
        model=model,
        encoder=encoder,
        audio=None if audio is None else str(audio),
        files=files,
        compared=compared,
        batch_sizes=tuple(sizes),
        repeats=repeats,
        threads=threads,
    )
    answer(run, options.quick() if quick else options, as_json)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def answer(run: Callable[[Options, Progress], BenchmarkResult], options: Options, as_json: bool) -> None:
    """Runs a benchmark under a progress bar and prints its table, or the same as JSON.

    Exits with 3 where a way failed for want of memory; each is named.

    Args:
        run: of a module of `voxstrata.benchmarks`.
        options: of that benchmark.
        as_json: JSON in place of the table, which then goes to standard error.
    """
    from voxstrata.cli.progress import bar

    with bar("runs") as (_, advance):
        result = run(options, advance)
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=2))
    show(result, err=as_json)
    faults = result.faults()
    for fault in faults:
        tell(str(fault))
    if faults:
        raise typer.Exit(3)


def show(result: BenchmarkResult, *, err: bool = False) -> None:
    """Prints what is compared, medians, peaks beyond resident memory, ratios, settings and machine."""
    width = max(map(len, result.compares))
    for name, meaning in result.compares.items():
        typer.echo(f"{name:<{width}}  {meaning}", err=err)
    headings, cells = result.table()
    words = headings.index("way") + 1
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    typer.echo(err=err)
    for line in (headings, *cells):
        padded = [
            f"{cell:<{width}}" if column < words else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        typer.echo("  ".join(padded), err=err)
    typer.echo(err=err)
    for note in _notes(result):
        typer.echo(textwrap.fill(note, 100, subsequent_indent="    ", break_on_hyphens=False), err=err)


def _notes(result: BenchmarkResult) -> tuple[str, ...]:
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in result.settings.items())
    stated = result.machine
    versions = [
        f"{name} {stated[name]}"
        for name in ("torch", "transformers", "fusion_bench", "mergekit")
        if name in stated
    ]
    figures = ", ".join(f"{name} {value:.3f}" for name, value in result.figures.items())
    return (
        *([figures] if figures else []),
        f"ratios: to {result.reference}, medians over turns; CPU: processor time; MB: {result.memory}",
        f"settings: {settings}",
        ", ".join([stated["processor"], f"{stated['cores']} cores", *versions]),
    )


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
