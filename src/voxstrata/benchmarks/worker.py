"""A process that runs one way of doing a thing, and what of time and memory it needs."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from voxstrata.errors import VoxstrataError
from voxstrata.methods.adaltm.lean.heap import Heap

#: Runs one case.
Step = Callable[[Any], object]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class MemoryOut(Exception):
    """A process could not have the memory it asked for, or was ended for it."""


class Worker:
    """A way in its process; after a want of memory the next run starts a new one.

    Args:
        name: of the way, for errors.
        prepare: gives the step, called in the process; can be pickled.
        threads: of torch; None leaves torch's choice.
    """

    def __init__(self, name: str, prepare: Callable[[], Step], threads: int | None) -> None:
        self._name, self._prepare, self._threads = name, prepare, threads
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, other_end = spawn.Pipe()
        arguments = (self._prepare, self._threads, other_end)
        self._process: BaseProcess | None = spawn.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other_end.close()

    def run(self, case: object, kind: str) -> tuple[float, float, int | None]:
        """Runs a case.

        Args:
            case: what the step is called with; can be pickled.
            kind: "memory" measures the peak.

        Returns:
            Seconds, seconds of processor time in all threads, and the peak in bytes beyond resident where it
            is asked for and can be known.

        Raises:
            MemoryOut: if memory was out.
            VoxstrataError: if the process ended by itself.
            RuntimeError: with the traceback, if the step failed otherwise.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send((case, kind))
            what, *answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended(case) from None
        if what == "memory out":
            self.stop()
            raise MemoryOut(answer[0])
        if what == "failed":
            raise RuntimeError(f"{self._name!r} failed at {case}:\n{answer[0]}")
        seconds, cpu_seconds, peak = answer
        return seconds, cpu_seconds, peak

    def stop(self) -> int | None:
        """Ends the process; its exit status, negative for a signal."""
        process, self._process = self._process, None
        self._connection.close()
        if process is None:
            return None
        process.join(timeout=5)
        if process.is_alive():
            process.terminate()
            process.join()
        return process.exitcode

    def _ended(self, case: object) -> Exception:
        status = self.stop() or 0
        if status < 0:
            name = signal.Signals(-status).name
            return MemoryOut(f"its process was ended by {name}, as it is when memory is out")
        return VoxstrataError(
            f"the process of {self._name!r} ended at {case} with status {status}; run it alone to see why"
        )


def peak_beyond_resident(work: Callable[[], object]) -> int | None:
    """Bytes that `work` needs at most beyond those resident before it; None where it cannot be known."""
    gc.collect()
    Heap().give_back()  # freed memory that is kept would hide what is needed anew
    try:
        _CLEAR.write_text("5")  # the high-water mark starts from what is resident now
        before = _status_bytes("VmRSS")
        work()
        return max(0, _status_bytes("VmHWM") - before)
    except OSError:
        work()
        return None


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} does not tell {name}")


def wants_memory(fault: Exception) -> bool:
    """Whether a fault is one of memory that could not be had."""
    return isinstance(fault, MemoryError) or "can't allocate memory" in str(fault)  # the latter from torch


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
            start, cpu_start = time.perf_counter(), time.process_time()
            if kind == "memory":
                peak = peak_beyond_resident(partial(step, case))
            else:
                step(case)
            took = time.perf_counter() - start, time.process_time() - cpu_start
            connection.send(("done", *took, peak))
        except Exception as fault:
            if wants_memory(fault):
                connection.send(("memory out", str(fault).partition("\n")[0] or "memory was out"))
                return
            connection.send(("failed", traceback.format_exc()))
