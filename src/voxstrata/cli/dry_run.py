"""What `--dry-run` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from voxstrata.cli.lines import one_line, tell

if TYPE_CHECKING:
    from voxstrata.experiments.dry_run.estimate import Assumptions
    from voxstrata.experiments.dry_run.run import DryRun

TFLOPS = typer.Option(
    None, "--tflops", help="With --dry-run: TFLOP/s that one GPU sustains. Default: 10 in fp32, 60 in bf16."
)
DRY_RUN = typer.Option(
    False, "--dry-run", help="Only check headers and prepared corpora, and estimate the costs."
)


def assumptions(tflops: float | None) -> Assumptions:
    """What is assumed of a GPU, and measured of the CPU here.

    Raises:
        RecipeError: if the throughput is not positive.
    """
    from voxstrata.errors import RecipeError
    from voxstrata.experiments.dry_run.estimate import Assumptions
    from voxstrata.experiments.dry_run.this_cpu import measured_tflops

    if tflops is not None and not 0 < tflops < math.inf:
        raise RecipeError(f"--tflops is {tflops:g}; give a positive number of TFLOP/s")
    assumed = Assumptions(cpu_tflops=measured_tflops())
    return assumed if tflops is None else replace(assumed, fp32_tflops=tflops, bf16_tflops=tflops)


def refuse_without_dry_run(given: Mapping[str, bool]) -> None:
    """Refuses options that mean nothing in a real run.

    Raises:
        RecipeError: naming those that were given.
    """
    from voxstrata.errors import RecipeError

    if named := [name for name, present in given.items() if present]:
        raise RecipeError(f"{', '.join(named)} needs --dry-run: add it, or leave {', '.join(named)} out")


def show(found: DryRun, as_json: bool) -> None:
    """Prints what a dry run found, faults on standard error.

    Raises:
        typer.Exit: with 2 if there are faults.
    """
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        for line in _lines(found):
            typer.echo(one_line(line))
        for fault in found.faults:
            tell(fault, "fault")
    if found.faults:
        raise typer.Exit(2)


def _lines(found: DryRun) -> Iterator[str]:
    from voxstrata.experiments.dry_run.run import NOT_ESTIMATED, NOT_YET

    for corpus in found.corpora:
        counts = (
            f"{split} {count:,}" + (_against(count, corpus.paper[split]) if split in corpus.paper else "")
            for split, count in corpus.clips.items()
        )
        yield f"corpus {corpus.name} ({corpus.folder}): {', '.join(counts)}"
        yield from (f"  note: {note}" for note in corpus.notes)
    for line in found.encoders:
        yield f"encoder {line}"
    expected = {NOT_ESTIMATED, NOT_YET}
    silent = [run.name for run in found.runs if not (run.costs or run.clips or set(run.notes) - expected)]
    for run in found.runs:
        if run.name in silent:
            continue
        yield ""
        yield f"{run.name}: {_clips(run.clips)}" if run.clips else run.name
        if run.costs is not None:
            cost = run.costs
            kept = "; states kept, the encoder runs once" if cost.cached else ""
            yield f"  {cost.steps:,} steps, {_operations(cost.training_flops)}{kept}"
            yield (
                f"  one GPU: {_hours(cost.one_gpu_s)}, {_gigabytes(cost.gpu_bytes)}; two: "
                f"{_hours(cost.two_gpus_s)}, {_gigabytes(cost.gpu_of_two_bytes)} each; host "
                f"{_gigabytes(cost.host_bytes)}; disk {_gigabytes(cost.disk_bytes)}, "
                f"{_gigabytes(cost.kept_bytes)} stay"
            )
            if cost.cpu_s is not None:
                yield f"  this machine's CPU: at least {_hours(cost.cpu_s)}"
        yield from (f"  note: {note}" for note in run.notes)
    if silent:
        yield ""
        yield f"without an estimate: {', '.join(silent)}"
    costs = [run.costs for run in found.runs if run.costs is not None]
    if costs:
        yield ""
        yield (
            f"{_all(len(costs), len(found.runs))}: one GPU: {_hours(sum(c.one_gpu_s for c in costs))}, "
            f"{_gigabytes(max(c.gpu_bytes for c in costs))}; two: "
            f"{_hours(sum(c.two_gpus_s for c in costs))}, "
            f"{_gigabytes(max(c.gpu_of_two_bytes for c in costs))} each; disk "
            f"{_gigabytes(found.disk_bytes)}, {_gigabytes(found.free_bytes)} are free"
        )
        yield from (f"assumed: {line}" for line in found.assumptions)
    count = len(found.faults)
    yield f"{count} fault{'s' * (count > 1)}, on standard error" if count else "no fault found"


def _all(estimated: int, runs: int) -> str:
    return "all" if estimated == runs else f"{estimated} of {runs} runs"


def _against(count: int, paper: int) -> str:
    return f" (paper {paper:,}, {count - paper:+,})"


def _clips(clips: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in clips.items())


def _operations(count: float) -> str:
    """Floating-point operations in the largest unit of which there is at least one.

    >>> _operations(1.64e13), _operations(2.5e18)
    ('16.4 TFLOP', '2.5 EFLOP')
    """
    for power, unit in ((18, "EFLOP"), (15, "PFLOP"), (12, "TFLOP")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count / 1e9:.3g} GFLOP"


def _hours(seconds: float) -> str:
    """A time in the largest unit of which there is at least one.

    >>> _hours(0.9), _hours(90), _hours(4e6)
    ('0.9 s', '1.5 min', '1,111.1 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
