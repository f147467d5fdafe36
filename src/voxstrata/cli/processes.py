"""A command that a launcher started several times: one process speaks, and a fault in one is said once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.batches.processes import Processes

#: How long a process lets another one finish its line, before its own end makes the launcher end all.
_PATIENCE = timedelta(seconds=5)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that do the command together, until they part.

    A process that fails says so and ends. The others lose it, and end without a word.
    """
    from torch import distributed

    from voxstrata.batches.processes import Processes
    from voxstrata.errors import VoxstrataError

    processes = Processes.join()
    try:
        yield processes
    except BaseException as fault:
        if processes.count == 1:
            raise
        # The launcher ends the others as soon as one is gone; what happened is to be reported before.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = fault.exit_code if isinstance(fault, VoxstrataError) else 1
        if not _speaks(processes):
            with suppress(RuntimeError):
                processes.store.wait(["told"], _PATIENCE)
            raise SystemExit(code) from None
        if not isinstance(fault, VoxstrataError) or "--debug" in sys.argv:
            raise
        tell(_line(fault, processes))
        with suppress(RuntimeError):
            processes.store.set("told", "")
        raise SystemExit(code) from None
    if processes.count > 1:
        distributed.destroy_process_group()


def _speaks(processes: Processes) -> bool:
    """Whether no other process has reported a fault before."""
    try:
        return bool(processes.store.add("faults", 1) == 1)
    except RuntimeError:
        # The store lies with the launcher or the first process: whoever had it has ended.
        return processes.leads


def _line(fault: Exception, processes: Processes) -> str:
    from voxstrata.errors import Interrupted, ProcessLost

    alone = not isinstance(fault, Interrupted | ProcessLost)
    return f"process {processes.share.index} of {processes.count}: {fault}" if alone else str(fault)
