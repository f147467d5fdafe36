"""Stopping cleanly: a signal asks, the loop stops where it can be taken up again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class StopRequest:
    """Whether somebody asked to stop.

    Args:
        requested: set by Ctrl-C (SIGINT) or SIGTERM.
    """

    requested: bool = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request; a second one acts as usual, at once.

    Outside the main thread Python delivers no signals, and nothing is changed. A signal that was ignored
    when the process started (`nohup`, a shell's background job) stays ignored.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        request.requested = True
        signal.signal(number, former[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        handler = signal.getsignal(number)
        if handler != signal.SIG_IGN:
            # None: a handler that was not set from Python and cannot be put back.
            former[number] = handler or signal.SIG_DFL
            signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
