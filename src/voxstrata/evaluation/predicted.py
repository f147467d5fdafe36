"""The predictions that a path stands for: a predictions file, or one split of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxstrata.errors import PredictionsError
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.runs import RunFolder

DEFAULT_SPLIT = "test"


def read_path(path: Path, split: str | None = None) -> tuple[str, list[Prediction]]:
    """The file that a path stands for, and its rows.

    Args:
        path: of a predictions file or a run folder.
        split: of a run folder; None: test.

    Raises:
        PredictionsError: if it cannot be read, or the run has no such split.
    """
    file = predictions_file(path, split or DEFAULT_SPLIT) if path.is_dir() else path
    return str(file), read_predictions(file)


def predictions_file(folder: Path, split: str) -> Path:
    """The predictions file of a split of a run.

    Raises:
        PredictionsError: if the folder has none, naming the splits that there are.
    """
    file = RunFolder(folder).predictions(split)
    there = predicted_splits(folder)
    if split in there:
        return file
    if there:
        raise PredictionsError(
            f"run {folder} has no predictions of the split {split!r}; it has {', '.join(there)}"
        )
    raise PredictionsError(
        f"{folder} is a folder without predictions/{split}.jsonl; give a predictions file, or the folder of "
        "a finished run"
    )


def predicted_splits(folder: Path) -> list[str]:
    """The splits of a run that have predictions, in the order of the alphabet."""
    return sorted(found.stem for found in RunFolder(folder).predictions("any").parent.glob("*.jsonl"))


def require_run_for_split(split: str | None, given: Sequence[object], any_run: bool) -> None:
    """Refuses a split where no run folder is given.

    Args:
        split: None: not given, which is always right.
        given: what was, for the message.
        any_run: whether one of it is a run folder.

    Raises:
        PredictionsError: naming what was given.
    """
    if split is not None and not any_run:
        raise PredictionsError(
            f"the split {split!r} chooses among the predictions of a run folder; found none: "
            f"{', '.join(map(str, given))}; leave the split out"
        )
