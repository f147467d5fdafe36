"""Time and memory of several ways to do one thing: each in a process of its own, turn by turn.

Interleaved runs (A B A B ...) see the same neighbours and the same temperature, so that their ratio holds
where single figures do not. Memory is what a run needs beyond what is resident before it: the resident
set's high-water mark is reset before each run that is measured so. A way that fails for want of memory
has no figures for that case; the others go on.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from voxstrata.benchmarks.worker import MemoryOut, Worker
from voxstrata.benchmarks.worker import Step as Step
from voxstrata.errors import VoxstrataError

#: Called with runs done, runs in all, and what is running.
Progress = Callable[[int, int, str], None]

_Case = TypeVar("_Case", bound=Hashable)


@dataclass(frozen=True)
class Runs:
    """What the runs of one way on one case took.

    Args:
        seconds: of each timed run.
        peak_bytes: highest resident memory during a run beyond what was resident before; None where the
            system does not tell (it takes Linux).
        fault: why there are no figures (memory was out); None where there are.
        cpu_seconds: processor time of each timed run, in all threads; other work on the machine adds little.
    """

    seconds: tuple[float, ...]
    peak_bytes: int | None
    fault: str | None = None
    cpu_seconds: tuple[float, ...] = ()

    @property
    def median_s(self) -> float:
        """Median of the timed runs, in seconds."""
        return median(self.seconds)


@dataclass
class _Tally:
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    fault: str | None = None

    def runs(self) -> Runs:
        if self.fault:
            return Runs((), None, self.fault)
        return Runs(tuple(self.seconds), self.peak_bytes, cpu_seconds=tuple(self.cpu_seconds))


def interleaved(
    modes: Mapping[str, Callable[[], Step]],
    cases: Sequence[_Case],
    *,
    repeats: int,
    threads: int | None = None,
    short: _Case | None = None,
    progress: Progress | None = None,
) -> dict[_Case, dict[str, Runs]]:
    """Runs every case in every mode: once to warm up, once for the memory, then timed, turn by turn.

    Args:
        modes: name -> what prepares the mode in its process and gives back its step; can be pickled
            (a module's function, or a partial of one).
        cases: what the steps are called with; can be pickled.
        repeats: timed runs of each mode and case.
        threads: of torch in each process; None leaves torch's choice.
        short: a case that needs as much memory in less time, to warm up with and for the memory; None: the
            case itself.
        progress: called before each run.

    Returns:
        case -> way -> its runs; those of a way that failed for want of memory have a `fault`.

    Raises:
        VoxstrataError: if no way got through any case for want of memory, or a process ended by itself.
        RuntimeError: with the traceback, if a step failed otherwise.
    """
    kinds = ["warm-up", "memory", *["time"] * repeats]
    total, done = len(cases) * len(kinds) * len(modes), 0
    found: dict[_Case, dict[str, Runs]] = {}
    with _workers(modes, threads) as workers:
        for case in cases:
            tallies = {name: _Tally() for name in modes}
            for kind in kinds:
                for name, worker in workers.items():
                    if tallies[name].fault is None:
                        if progress is not None:
                            progress(done, total, f"{case}, {name}, {kind}")
                        _run(worker, case if kind == "time" or short is None else short, kind, tallies[name])
                    done += 1
            found[case] = {name: tally.runs() for name, tally in tallies.items()}
    faults = [runs.fault for by_mode in found.values() for runs in by_mode.values()]
    if faults and all(faults):
        raise VoxstrataError(f"no way got through: {faults[0]}; choose shorter clips or a smaller batch")
    return found


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, load, versions."""
    import psutil

    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": round(psutil.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


@contextmanager
def _workers(modes: Mapping[str, Callable[[], Step]], threads: int | None) -> Iterator[dict[str, Worker]]:
    workers: dict[str, Worker] = {}
    try:
        for name, prepare in modes.items():
            workers[name] = Worker(name, prepare, threads)
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()


def _run(worker: Worker, case: object, kind: str, tally: _Tally) -> None:
    try:
        seconds, cpu_seconds, peak = worker.run(case, kind)
    except MemoryOut as fault:
        tally.fault = str(fault)
        return
    if kind == "time":
        tally.seconds.append(seconds)
        tally.cpu_seconds.append(cpu_seconds)
    elif kind == "memory":
        tally.peak_bytes = peak
