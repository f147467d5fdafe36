"""Progress on stderr: one bar with the time left, and lines above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

Advance = Callable[[int, int, str], None]
Say = Callable[[str], None]


@contextmanager
def bar(unit: str = "steps") -> Iterator[tuple[Say, Advance]]:
    """A bar, as `say(line)` for lines above it and `advance(done, total, text)`."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def say(line: str) -> None:
            progress.console.print(line, markup=False, soft_wrap=True)

        def advance(done: int, total: int, text: str) -> None:
            progress.update(task, completed=done, total=total, description=text)

        yield say, advance
