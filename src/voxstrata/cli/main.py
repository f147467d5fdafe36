"""The program: faults and Ctrl-C are one line, from its first moment on, also while libraries load."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

_INTERRUPTED = 130
_STOPPED = "stopped by Ctrl-C"


def __getattr__(name: str) -> Any:
    """`app`, with all commands; loaded when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from voxstrata.cli.commands import app

    return app


class CtrlC:
    """What Ctrl-C does to the program: `KeyboardInterrupt`, or the end at once where that could get lost.

    While a module is imported, a library may catch the exception, or make another one of it. A second Ctrl-C
    ends at once too. Where Ctrl-C was ignored, as behind `nohup`, it stays so.

    Attributes:
        pressed: whether it was.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._former = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> CtrlC:
        self._set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: Any, where: TracebackType | None) -> None:
        # Registered last, it comes first: the work is done, and its exit code is to be had.
        atexit.register(self._set, signal.SIG_IGN)
        self._set(self._former)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal."""
        if self.pressed:
            self._end()
        self.pressed = True
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                self._end()
            frame = frame.f_back
        raise KeyboardInterrupt

    def end_at_once(self) -> None:
        """From now on Ctrl-C ends the program, whatever it does."""
        self._set(self._end)

    def _set(self, handler: Any) -> None:
        if self._former != signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)

    def _end(self, *_: Any) -> None:
        os.write(2, f"voxstrata: {_STOPPED}\n".encode())
        os._exit(_INTERRUPTED)


def main() -> None:
    """Runs a command; a fault in what was given, or of the machine, is one line and exit code 2."""
    with CtrlC() as ctrl_c:
        try:
            line, code = _answer(ctrl_c)
        except KeyboardInterrupt:
            line, code = _STOPPED, _INTERRUPTED
        ctrl_c.end_at_once()
        _tell(line)
        sys.exit(code)


def _answer(ctrl_c: CtrlC) -> tuple[str, int]:
    """Runs a command; the line to end with, or nothing, and the exit code."""
    try:
        code = _command()
    except Exception as fault:
        if ctrl_c.pressed:
            # What a library made of it.
            return _STOPPED, _INTERRUPTED
        from voxstrata.cli.faults import line_for

        if "--debug" in sys.argv or (stated := line_for(fault)) is None:
            raise
        return stated
    return (_STOPPED if code == _INTERRUPTED else ""), code


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
