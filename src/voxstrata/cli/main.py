"""The program: faults, Ctrl-C and SIGTERM are one line, also while its libraries load."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

#: Signal -> the line that tells of it.
_STOPPED = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}
_INTERRUPTED = 130


def __getattr__(name: str) -> Any:
    """`app`, with all commands; loaded when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from voxstrata.cli.commands import app

    return app


class Stops:
    """What Ctrl-C and SIGTERM do to the program: `KeyboardInterrupt`, so that what is half-written goes.

    Where the exception could get lost, the end at once: while a module is imported, a library may catch it,
    or make another one of it. A second signal ends at once too. Where a signal was ignored, as Ctrl-C behind
    `nohup`, it stays so. A launcher of several processes ends them as it likes.

    Attributes:
        by: the signal that came; None: none did.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        launched = "TORCHELASTIC_RUN_ID" in os.environ
        self._former = {
            number: former
            for number in _STOPPED
            if (former := signal.getsignal(number)) != signal.SIG_IGN
            and not (launched and number == signal.SIGTERM)
        }

    def __enter__(self) -> Stops:
        self._set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: Any, where: TracebackType | None) -> None:
        # Registered last, it comes first: the work is done, and its exit code is to be had.
        atexit.register(self._set, signal.SIG_IGN)
        for number, former in self._former.items():
            signal.signal(number, former)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if self.by is not None:
            self._end(number)
        self.by = signal.Signals(number)
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                self._end(number)
            frame = frame.f_back
        raise KeyboardInterrupt

    @property
    def ending(self) -> tuple[str, int]:
        """The line to end with, and the exit code."""
        by = self.by or signal.SIGINT
        return _STOPPED[by], 128 + by

    def end_at_once(self) -> None:
        """From now on a signal ends the program, whatever it does."""
        self._set(self._end)

    def _set(self, handler: Any) -> None:
        for number in self._former:
            signal.signal(number, handler)

    def _end(self, number: int, *_: Any) -> None:
        os.write(2, f"voxstrata: {_STOPPED[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)


def main() -> None:
    """Runs a command; a fault in what was given, or of the machine, is one line and exit code 2."""
    with Stops() as stops:
        try:
            line, code = _answer(stops)
        except KeyboardInterrupt:
            line, code = stops.ending
        stops.end_at_once()
        _tell(line)
        sys.exit(code)


def _answer(stops: Stops) -> tuple[str, int]:
    """Runs a command; the line to end with, or nothing, and the exit code."""
    try:
        code = _command()
    except Exception as fault:
        if stops.by is not None:
            # What a library made of it.
            return stops.ending
        from voxstrata.cli.faults import line_for

        if "--debug" in sys.argv or (stated := line_for(fault)) is None:
            raise
        return stated
    # Click makes an exit code of the exception.
    return stops.ending if code == _INTERRUPTED else ("", code)


def _command() -> int:
    """Runs a command; its exit code."""
    import io
    import warnings

    from voxstrata.cli.commands import app
    from voxstrata.errors import VoxstrataError

    if "" in sys.argv[1:]:
        # As a path it would be the current folder.
        raise VoxstrataError(
            f"argument {sys.argv.index('', 1)} is empty (a variable that is not set?); give it a value, or "
            "leave it out"
        )
    # WavLM's attention in transformers passes masks of two kinds; torch says so at every first padded batch.
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold bytes that are no text.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except SystemExit:
        sys.stdout.flush()
        raise
    # What is still buffered may find the disk full, and is to be reported as well.
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _tell(line: str) -> None:
    """Prints a line, and lets the interpreter end without trying again what cannot be written."""
    from contextlib import suppress
    from pathlib import Path

    from voxstrata.cli.lines import tell

    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if line:
        with suppress(OSError):
            tell(line)


if __name__ == "__main__":
    main()
