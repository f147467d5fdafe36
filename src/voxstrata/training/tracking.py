"""Experiment trackers over Accelerate: they receive the rows of the journal; a failing one stops no run."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from voxstrata.errors import TrainingError
from voxstrata.runs import RunFolder

#: What a tracker calls all runs together; the run has its own name in it.
PROJECT = "voxstrata"
#: Where the name of a run goes, by tracker. TensorBoard has a folder in each run.
_NAMED_BY = {"wandb": "name", "trackio": "name", "mlflow": "run_name"}
#: What mlflow, the strictest of them, does not take in the name of a number.
_ODD = re.compile(r"[^\w./ -]")

Track = Callable[[Mapping[str, Any]], None]


def require_tracker(name: str | None) -> None:
    """Refuses a tracker whose package is missing, before the work.

    Raises:
        TrainingError: with how to get it.
    """
    if name is not None and not _is_installed(name):
        raise TrainingError(
            f"training.tracker is {name}, which is not installed; pip install {name}, or leave the key out"
        )


def _is_installed(name: str) -> bool:
    """Whether a tracker's package is there; of TensorBoard also the writer of tensorboardX will do."""
    packages = (name, "tensorboardX") if name == "tensorboard" else (name,)
    return any(importlib.util.find_spec(package) is not None for package in packages)


@contextmanager
def tracked(
    name: str | None, run: RunFolder, recipe: Mapping[str, Any], notify: Callable[[str], None]
) -> Iterator[Track | None]:
    """Opens a tracker of a run, and closes it.

    Args:
        name: of the tracker; None for none.
        run: that is tracked.
        recipe: its values, shown by the tracker.
        notify: receives a line where the tracker fails while the run goes on.

    Yields:
        What takes rows of the journal; None without a tracker.

    Raises:
        TrainingError: if it cannot be opened.
    """
    if name is None:
        yield None
        return
    from accelerate import Accelerator

    run_name = run.path.resolve().name
    try:
        accelerator = Accelerator(log_with=name, project_dir=str(run.path), mixed_precision="no")
        named = {name: {_NAMED_BY[name]: run_name}} if name in _NAMED_BY else {}
        project = PROJECT if named else name
        accelerator.init_trackers(project, config=dict(_settings(recipe)), init_kwargs=named)
        if not accelerator.trackers:
            raise ValueError("Accelerate does not find its package")
    except Exception as fault:
        reason = next(iter(str(fault).splitlines()), "")
        raise TrainingError(
            f"training.tracker {name} cannot be opened ({type(fault).__name__}: {reason}); set it up, or "
            "leave the key out"
        ) from None
    works = True

    def attempt(send: Callable[..., None], *values: Any, **options: Any) -> None:
        nonlocal works
        try:
            if works:
                send(*values, **options)
        except Exception as fault:
            works = False
            reason = next(iter(str(fault).splitlines()), "")
            notify(f"warning: the tracker {name} failed ({type(fault).__name__}: {reason}); the run goes on")

    def track(row: Mapping[str, Any]) -> None:
        attempt(accelerator.log, dict(_numbers(row)), step=row["step"])

    try:
        yield track
    finally:
        attempt(accelerator.end_training)


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a journal row, as `train/loss`, `train/lr/encoder`, `dev/loss`.

    >>> dict(_numbers({"kind": "step", "step": 3, "epoch": 0, "loss": 1.5, "lr": {"head": 0.1}}))
    {'train/epoch': 0, 'train/loss': 1.5, 'train/lr/head': 0.1}
    """
    part = "train" if row["kind"] == "step" else "dev"
    for name, value in _flat(row, "/"):
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            yield _ODD.sub("_", f"{part}/{name}"), value


def _settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float | bool]]:
    """A recipe as names and plain values, as trackers take them; what is null is left out."""
    for name, value in _flat(recipe, "."):
        if value is not None:
            yield name, value if isinstance(value, str | int | float | bool) else str(value)


def _flat(values: Mapping[str, Any], between: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}{between}{inner}", one) for inner, one in _flat(value, between))
        else:
            yield name, value
