"""What `evaluate` and `compare` are given: predictions files, run folders, standard input; their parts."""

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
DEFAULT_SPLIT = "test"


def read_given(paths: Sequence[Path], split: str | None) -> list[tuple[str, list[Prediction]]]:
    """Name and rows of each.

    Args:
        paths: files of predictions, run folders, or `-` once.
        split: of run folders; None: test.

    Raises:
        PredictionsError: if one cannot be read, standard input is named twice, or a split is given and no
            run.
    """
    if paths.count(DASH) > 1:
        raise PredictionsError("standard input (-) can be read once; give the other predictions as a file")
    if split is not None and not any(path.is_dir() for path in paths):
        raise PredictionsError(
            f"--split {split} chooses among the predictions of a run folder; found only files: "
            f"{', '.join(map(str, paths))}; leave --split out"
        )
    return [_read(path, split or DEFAULT_SPLIT) for path in paths]


def _read(path: Path, split: str) -> tuple[str, list[Prediction]]:
    from voxstrata.predictions import parse_predictions, read_predictions

    if path == DASH:
        return "standard input", parse_predictions(sys.stdin.buffer.read(), "standard input")
    file = _of_run(path, split) if path.is_dir() else path
    return str(file), read_predictions(file)


def _of_run(folder: Path, split: str) -> Path:
    from voxstrata.runs import RunFolder

    file = RunFolder(folder).predictions(split)
    there = sorted(found.stem for found in file.parent.glob("*.jsonl"))
    if split in there:
        return file
    if there:
        raise PredictionsError(
            f"run {folder} has no predictions of {split!r}; --split may be {', '.join(there)}"
        )
    raise PredictionsError(
        f"{folder} is a folder without predictions/{split}.jsonl; give a predictions file, or the folder of "
        "a finished run"
    )


def parts_of(name: str, rows: Sequence[Prediction], corpus: Path, column: str) -> dict[str, list[Prediction]]:
    """The rows by what the prepared corpus tells of their clips, such as the subset of LibriSpeech.

    Args:
        name: of the predictions.
        rows: of clips of the corpus.
        corpus: folder of the prepared corpus.
        column: a column of it: `speaker`, `emotion` or one of its extras.

    Returns:
        Name of the part -> its rows, parts in alphabetical order.

    Raises:
        PredictionsError: if a clip is not in the corpus, or none has the column.
        CorpusError: if there is no such corpus.
    """
    from voxstrata.corpora.prepared import PreparedCorpus
    from voxstrata.evaluation.answers import first_few

    told: dict[str, str] = {}
    columns: set[str] = set()
    for cut in PreparedCorpus.load(corpus).stream():
        about = {"speaker": cut.supervisions[0].speaker, **(cut.supervisions[0].custom or {})}
        known = {key: value for key, value in about.items() if isinstance(value, str)}
        columns |= known.keys()
        told[cut.id] = known.get(column, "")
    if strange := [row.id for row in rows if row.id not in told]:
        raise PredictionsError(
            f"{name}: {len(strange)} clips are not in {corpus} ({first_few(strange)}); give --corpus the "
            "prepared corpus that was predicted"
        )
    if column not in columns:
        raise PredictionsError(f"{corpus} has no column {column!r}; --by may be {', '.join(sorted(columns))}")
    parts = sorted({told[row.id] for row in rows})
    return {
        f"{name} ({column} {part or 'unknown'})": [row for row in rows if told[row.id] == part]
        for part in parts
    }
