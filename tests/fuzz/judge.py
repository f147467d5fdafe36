"""Runs a command as `voxstrata` does, in this process, and says which of five faults it shows."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

#: Seconds after which a command hangs.
LIMIT_S = 20.0
#: Address space that a command may take beyond what the process has.
MEMORY_BYTES = 2 << 30
TRACEBACK, HANG, MEMORY, NONSENSE, HALF_WRITTEN = "traceback", "hang", "memory", "nonsense", "half-written"
#: 0: answered; 2: refused; 3: some rows or clips failed.
ALLOWED = (0, 2, 3)

#: Given exit code and standard output: what is nonsense in the answer, or "".
Check = Callable[[int, str], str]


class Hung(BaseException):
    """The watchdog's; no handler for `Exception` takes it."""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Args:
        code: exit code; None where it did not end by itself.
        out: standard output.
        err: standard error, with the traceback of what came out.
        fault: one of the five, or "".
        detail: of the fault.
        took_s: seconds.
    """

    code: int | None
    out: str
    err: str
    fault: str
    detail: str
    took_s: float


def judged(
    arguments: Sequence[str],
    work: Path,
    *,
    check: Check = lambda code, out: "",
    unwritten: Sequence[Path] = (),
    main: Callable[[], None] | None = None,
    limit_s: float = LIMIT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> Outcome:
    """Runs a command and judges it.

    Args:
        arguments: behind `voxstrata`.
        work: folder in which it runs.
        check: of its answer.
        unwritten: paths that must not be there after exit code 2.
        main: what runs; the command line's own by default.
        limit_s: see `LIMIT_S`.
        memory_bytes: see `MEMORY_BYTES`.
    """
    if main is None:
        from voxstrata.cli.main import main
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: int | None = None
    fault = detail = ""
    before = _partial(work)
    began = time.monotonic()
    with _as_program(arguments, work, out, err), _bounded(limit_s, memory_bytes):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Hung:
            fault, detail = HANG, "".join(traceback.format_exc().splitlines(keepends=True)[-14:])
        except MemoryError:
            fault, detail = MEMORY, traceback.format_exc()
        except BaseException:
            fault, detail = TRACEBACK, traceback.format_exc()
    took_s = time.monotonic() - began
    printed, told = _text(out), _text(err)
    if not fault:
        fault, detail = _fault_of(code, printed, told, check)
    if not fault:
        left = [str(path) for path in sorted(_partial(work) - before)]
        left += [str(path) for path in unwritten if code == 2 and path.exists()]
        fault, detail = (HALF_WRITTEN, ", ".join(left)) if left else ("", "")
    return Outcome(code, printed, told, fault, detail, took_s)


def _fault_of(code: int | None, printed: str, told: str, check: Check) -> tuple[str, str]:
    if code not in ALLOWED:
        return TRACEBACK, f"exit code {code}, which says nothing: {told[-500:]}"
    if re.search("not enough memory|too long for the memory", printed + told):
        return MEMORY, told[-500:] + printed[-500:]
    if unforeseen := re.search(
        r"cannot be recognised \(.*|Traceback \(most recent call last\)", printed + told
    ):
        return TRACEBACK, unforeseen[0][:500]
    if code == 2 and not printed and not told.strip():
        return TRACEBACK, "refused without a word"
    if code == 2 and told.strip() and not _is_told(told, printed):
        return TRACEBACK, f"refused in other than one line: {told[-500:]}"
    if odd := check(code or 0, printed):
        return NONSENSE, odd[:500]
    return "", ""


def _is_told(told: str, printed: str) -> bool:
    """Whether what was refused is told in one line, the last: the program's, or a dry run's."""
    last = told.rstrip().splitlines()[-1]
    return last.startswith(("voxstrata: ", "fault: ")) or bool(printed)


@contextlib.contextmanager
def _as_program(
    arguments: Sequence[str], work: Path, out: io.TextIOWrapper, err: io.TextIOWrapper
) -> Iterator[None]:
    """This process as the program: its arguments, folder and output."""
    before, place = sys.argv, Path.cwd()
    sys.argv = ["voxstrata", *arguments]
    os.chdir(work)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        sys.argv = before
        os.chdir(place)


@contextlib.contextmanager
def _bounded(limit_s: float, memory_bytes: int) -> Iterator[None]:
    """A watchdog, and an end to memory."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise Hung

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = psutil.Process().memory_info().vms + memory_bytes
    bound = bound if soft == resource.RLIM_INFINITY else min(bound, soft)
    former = signal.signal(signal.SIGALRM, hung)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, former)


def _partial(work: Path) -> set[Path]:
    """What is half-written below a folder."""
    return set(work.rglob(".*.tmp"))


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("utf-8", "backslashreplace")
