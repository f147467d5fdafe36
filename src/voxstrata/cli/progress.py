"""Progress on stderr: a bar on a terminal, elsewhere a line every half minute; other lines above it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from voxstrata.cli.lines import one_line

Advance = Callable[[int, int, str], None]
Notify = Callable[[str], None]

#: Seconds between two lines where there is no terminal.
EVERY_S = 30.0


@contextmanager
def bar(unit: str = "steps") -> Iterator[tuple[Notify, Advance]]:
    """A bar, as `notify(line)` for lines above it and `advance(done, total, text)`."""
    console = Console(stderr=True, highlight=False)

    def notify(line: str) -> None:
        console.print(one_line(line), markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield notify, Lines(unit, notify).advance
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Times(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def advance(done: int, total: int, text: str) -> None:
            progress.update(task, completed=done, total=total, description=text)

        yield notify, advance


class Lines:
    """Progress where there is no terminal: plain lines, so that a log tells how far a long run is.

    Args:
        unit: what is counted.
        notify: receives the lines.
        every_s: least seconds between two of them, and before the first.
        clock: tells the time in seconds.
    """

    def __init__(
        self, unit: str, notify: Notify, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.unit, self.notify, self.every_s, self.clock = unit, notify, every_s, clock
        self.began = self.stated = clock()
        # From when on, and from which count, the speed is taken; another total is other work.
        self.total: int | None = None
        self.start, self.start_done = self.began, 0

    def advance(self, done: int, total: int, text: str) -> None:
        """Takes up where the work stands, and tells it where the last line is old enough."""
        now = self.clock()
        if total != self.total or done < self.start_done:
            self.total, self.start, self.start_done = total, now, done
        if now - self.stated < self.every_s:
            return
        self.stated = now
        moved = done - self.start_done
        left_s = (now - self.start) / moved * (total - done) if moved else None
        self.notify(f"{done:,} of {total:,} {self.unit}, {text}; {times(now - self.began, left_s)}")


class _Times(ProgressColumn):
    """How long it has run, and how long it will."""

    def render(self, task: Task) -> Text:
        return Text(times(task.elapsed or 0.0, task.time_remaining))


def times(elapsed_s: float, left_s: float | None) -> str:
    """How long the work has run, and how much longer it will.

    Args:
        elapsed_s: seconds since the start.
        left_s: seconds to the end; None: not known yet.

    >>> times(596.4, None), times(61, 3600)
    ('running for 0:09:56', 'running for 0:01:01, about 1:00:00 left')
    """
    left = "" if left_s is None else f", about {timedelta(seconds=round(left_s))} left"
    return f"running for {timedelta(seconds=round(elapsed_s))}{left}"
