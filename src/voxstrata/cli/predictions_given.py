"""What `evaluate` and `compare` are given: predictions files, run folders, standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxstrata.errors import PredictionsError

if TYPE_CHECKING:
    from voxstrata.predictions import Prediction

#: Stands for standard input.
DASH = Path("-")


def read_given(paths: Sequence[Path], split: str | None) -> list[tuple[str, list[Prediction]]]:
    """Name and rows of each.

    Args:
        paths: files of predictions, run folders, or `-` once.
        split: of run folders; None: test.

    Raises:
        PredictionsError: if one cannot be read, standard input is named twice, or a split is given and no
            run.
    """
    from voxstrata.evaluation.predicted import read_path, require_run_for_split
    from voxstrata.predictions import parse_predictions

    if paths.count(DASH) > 1:
        raise PredictionsError("standard input (-) can be read once; give the other predictions as a file")
    require_run_for_split(split, paths, any(path.is_dir() for path in paths))
    return [
        ("standard input", parse_predictions(sys.stdin.buffer.read(), "standard input"))
        if path == DASH
        else read_path(path, split)
        for path in paths
    ]
