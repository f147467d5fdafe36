"""Time and memory of several ways to do one thing: each in a process of its own, turn by turn.

Interleaved runs (A B A B ...) see the same neighbours and the same temperature, so that their ratio holds
where single figures do not. Memory is what a run needs beyond what is resident before it: the resident
set's high-water mark is reset before each run that is measured so.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from voxstrata.errors import VoxstrataError

#: Runs one case.
Step = Callable[[Any], object]
#: Called with runs done, runs in all, and what is running.
Progress = Callable[[int, int, str], None]

_Case = TypeVar("_Case", bound=Hashable)

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Runs:
    """What the runs of one way on one case took.

    Args:
        seconds: of each timed run.
        peak_bytes: highest resident memory during a run beyond what was resident before; None where the
            system does not tell (it takes Linux).
    """

    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def median_s(self) -> float:
        """Median of the timed runs, in seconds."""
        return median(self.seconds)


@dataclass
class _Tally:
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None


def interleaved(
    modes: Mapping[str, Callable[[], Step]],
    cases: Sequence[_Case],
    *,
    repeats: int,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[_Case, dict[str, Runs]]:
    """Runs every case in every mode: once to warm up, once for the memory, then timed, turn by turn.

    Args:
        modes: name -> what prepares the mode in its process and gives back its step; can be pickled
            (a module's function, or a partial of one).
        cases: what the steps are called with; can be pickled.
        repeats: timed runs of each mode and case.
        threads: of torch in each process; None leaves torch's choice.
        progress: called before each run.

    Raises:
        VoxstrataError: if a process was ended from outside, as it is when memory is out.
        RuntimeError: with the traceback, if a step failed.
    """
    kinds = ["warm-up", "memory", *["time"] * repeats]
    total, done = len(cases) * len(kinds) * len(modes), 0
    found: dict[_Case, dict[str, Runs]] = {}
    with _workers(modes, threads) as workers:
        for case in cases:
            tallies = {name: _Tally() for name in modes}
            for kind in kinds:
                for name, worker in workers.items():
                    if progress is not None:
                        progress(done, total, f"{case}, {name}, {kind}")
                    seconds, peak = _ask(worker, name, (case, kind))
                    if kind == "time":
                        tallies[name].seconds.append(seconds)
                    elif kind == "memory":
                        tallies[name].peak_bytes = peak
                    done += 1
            found[case] = {name: Runs(tuple(t.seconds), t.peak_bytes) for name, t in tallies.items()}
    return found


def peak_beyond_resident(work: Callable[[], object]) -> int | None:
    """Bytes that `work` needs at most beyond those resident before it; None where it cannot be told."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps freed memory, which would hide what is needed anew
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # the high-water mark starts from what is resident now
        before = _status_bytes("VmRSS")
        work()
        return max(0, _status_bytes("VmHWM") - before)
    except OSError:
        work()
        return None


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


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} does not tell {name}")


@contextmanager
def _workers(modes: Mapping[str, Callable[[], Step]], threads: int | None) -> Iterator[dict[str, Connection]]:
    spawn = multiprocessing.get_context("spawn")
    processes, connections = [], {}
    try:
        for name, prepare in modes.items():
            connections[name], other_end = spawn.Pipe()
            processes.append(spawn.Process(target=_serve, args=(prepare, threads, other_end), daemon=True))
            processes[-1].start()
            other_end.close()
        yield connections
    finally:
        for connection in connections.values():
            connection.close()
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()


def _ask(worker: Connection, name: str, question: tuple[Any, str]) -> tuple[float, int | None]:
    try:
        worker.send(question)
        answer = worker.recv()
    except (EOFError, OSError):
        raise VoxstrataError(
            f"the process of {name!r} ended at {question[0]}; if memory was out, choose shorter clips or a "
            "smaller batch"
        ) from None
    if isinstance(answer, str):
        raise RuntimeError(f"{name!r} failed at {question[0]}:\n{answer}")
    seconds, peak = answer
    return seconds, peak


def _serve(prepare: Callable[[], Step], threads: int | None, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes itself
    step: Step | None = None
    while True:
        try:
            case, kind = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if step is None:
                if threads is not None:
                    import torch

                    torch.set_num_threads(threads)
                step = prepare()
            peak = None
            start = time.perf_counter()
            if kind == "memory":
                peak = peak_beyond_resident(partial(step, case))
            else:
                step(case)
            connection.send((time.perf_counter() - start, peak))
        except Exception:
            connection.send(traceback.format_exc())
