"""Two processes never write into one place: the second one is refused before its work."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import typer

#: Commands that write what their parameter `out` names. Trainings and tables hold each run's folder instead.
_WRITERS = {
    *("adapt", "convert", "curve", "embed", "export", "merge", "merge-statistics", "predict"),
    *("corpus prepare", "corpus shar", "corpus synth"),
}


def with_one_writer(app: typer.Typer, path: tuple[str, ...] = ()) -> None:
    """Has each of these commands keep its place for itself while it runs."""
    for command in app.registered_commands:
        if " ".join([*path, command.name or ""]) in _WRITERS:
            assert command.callback is not None
            command.callback = _alone(command.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        with_one_writer(group.typer_instance, (*path, group.name or ""))


def _alone(callback: Any) -> Any:
    @functools.wraps(callback)
    def called(*args: Any, **options: Any) -> Any:
        out = options.get("out")
        # Standard output, devices and pipes are no places.
        if not isinstance(out, Path) or str(out) == "-":
            return callback(*args, **options)
        if out.exists() and not (out.is_file() or out.is_dir()):
            return callback(*args, **options)
        from voxstrata.runs import alone

        with alone(out):
            return callback(*args, **options)

    return called
