"""Scores and comparisons of runs, predictions files and rows, with the options of the commands."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from voxstrata.errors import PredictionsError
from voxstrata.evaluation.answers import first_few, pooled
from voxstrata.evaluation.comparison import Comparison
from voxstrata.evaluation.comparison import compare as compared
from voxstrata.evaluation.predicted import read_path, require_run_for_split
from voxstrata.evaluation.priors import GivenPrior, adjust_as_given
from voxstrata.evaluation.score import Scores, score
from voxstrata.notebook.trained import Run
from voxstrata.predictions import Prediction, checked_rows

#: A run, the path of a run folder or a predictions file, or rows.
Source: TypeAlias = Run | str | Path | Iterable[Prediction | Mapping[str, Any]]

_LOG = logging.getLogger("voxstrata")
ROWS = "the rows"


def evaluate(
    *sources: Source,
    split: str | None = None,
    normalizer: str = "basic",
    errors: str = "wrong",
    labels: Sequence[str] | None = None,
    prior: GivenPrior | None = None,
    train_prior: GivenPrior | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Scores predictions of any system, as `voxstrata evaluate` does.

    Args:
        sources: a `Run`, the path of a run folder or of a predictions file, or rows (`Prediction` or
            mappings with the same fields). Several are scored as one, such as the folds of one corpus.
        split: of runs: "dev" or "test"; None: test.
        normalizer: of transcripts: "none", "basic", "no-apostrophe" or "spelled"; "basic without say" scores
            no "say".
        errors: clips without an answer count as "wrong", or are left out ("leave-out").
        labels: emotions allowed, in the order to show; None: all that occur.
        prior: class prior to answer for: "uniform", a mapping class -> share, or a JSON file of shares.
        train_prior: class prior under which the model was trained: as `prior`, or the `corpus.json` of a
            prepared corpus. Both are given or neither.
        resamples: bootstrap samples, by clip and by speaker.
        seed: of the resampling by speaker, from 0 on.

    Returns:
        The scores of all tasks that are answered, as rates in [0, 1] with 95 % intervals. In a notebook they
        show as a table; what to be careful about is in `warnings`.

    Raises:
        PredictionsError: if there is nothing to score, or a file, row or option cannot be used.

    Example:
        >>> import voxstrata as vs
        >>> rows = [{"id": "a", "emotion": "anger", "reference_emotion": "anger"},
        ...         {"id": "b", "emotion": "anger", "reference_emotion": "neutral"}]
        >>> vs.evaluate(rows, resamples=10).emotion.metrics["uar"].value
        0.5
    """
    if not sources:
        raise PredictionsError("nothing to score was given; give a run, a predictions file or rows")
    given = _read(sources, split)
    if prior is not None or train_prior is not None:
        adjusted = {name: adjust_as_given(rows, prior, train_prior) for name, rows in given.items()}
        for name, found in adjusted.items():
            _LOG.info(
                "%s: %d rows adjusted to the prior, %d answers changed", name, found.adjusted, found.changed
            )
        given = {name: found.predictions for name, found in adjusted.items()}
    rows = next(iter(given.values())) if len(given) == 1 else pooled(given)
    return score(rows, normalizer=normalizer, resamples=resamples, seed=seed, labels=labels, errors=errors)


def compare(
    a: Source,
    b: Source,
    *,
    split: str | None = None,
    normalizer: str = "basic",
    errors: str = "wrong",
    labels: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares two systems on the same clips, as `voxstrata compare` does: B less A.

    Speakers are resampled, the same ones for both systems; where speakers are unknown, clips are.

    Args:
        a: the first system: a `Run`, the path of a run folder or of a predictions file, or rows.
        b: the second, for the same ids in any order.
        split: of runs: "dev" or "test"; None: test.
        normalizer: of transcripts, see `evaluate`.
        errors: clips without an answer count as "wrong", or are left out for both ("leave-out").
        labels: emotions allowed; None: all that occur.
        resamples: bootstrap samples.
        seed: of the resampling, from 0 on.

    Returns:
        `differences`: metric -> both values, in [0, 1], and the 95 % interval of their difference. In a
        notebook it shows as a table.

    Raises:
        PredictionsError: if ids, references or speakers differ, or nothing can be compared.

    Example:
        >>> import voxstrata as vs
        >>> a = [{"id": "a", "emotion": "anger", "reference_emotion": "anger"},
        ...      {"id": "b", "emotion": "anger", "reference_emotion": "neutral"}]
        >>> b = [{**row, "emotion": row["reference_emotion"]} for row in a]
        >>> vs.compare(a, b, resamples=10).differences["uar"].difference
        0.5
    """
    (_, rows_a), (_, rows_b) = _each([a, b], split)
    return compared(
        rows_a,
        rows_b,
        normalizer=normalizer,
        resamples=resamples,
        seed=seed,
        labels=labels,
        errors=errors,
    )


def parts(
    source: Source, column: str, corpus: str | PathLike[str], *, split: str | None = None
) -> dict[str, list[Prediction]]:
    """Predictions by what a prepared corpus says of their clips, such as the subset of LibriSpeech.

    Args:
        source: a `Run`, the path of a run folder or of a predictions file, or rows.
        column: of the corpus: "speaker", "emotion" or one of its own columns.
        corpus: folder of the prepared corpus that the clips are from.
        split: of a run: "dev" or "test"; None: test.

    Returns:
        Value of the column -> rows, in alphabetical order; "unknown" for clips without one. Each can be given
        to `evaluate` and `compare`.

    Raises:
        PredictionsError: if a clip is not in the corpus, or none has the column.
        CorpusError: if there is no such corpus.

    Example:
        ``for name, rows in vs.parts("runs/asr", "subset", "prepared/libri").items(): vs.evaluate(rows)``
    """
    ((name, rows),) = _each([source], split)
    return rows_by_column(name, rows, Path(corpus), column)


def rows_by_column(
    name: str, rows: Sequence[Prediction], corpus: Path, column: str
) -> dict[str, list[Prediction]]:
    """As `parts`, of rows.

    Args:
        name: of the predictions.
        rows: of clips of the corpus.
        corpus: folder of the prepared corpus.
        column: of it.

    Raises:
        PredictionsError: see `parts`.
        CorpusError: see `parts`.
    """
    from voxstrata.corpora.prepared import PreparedCorpus

    values: dict[str, str] = {}
    columns: set[str] = set()
    for cut in PreparedCorpus.load(corpus).stream():
        about = {"speaker": cut.supervisions[0].speaker, **(cut.supervisions[0].custom or {})}
        known = {key: value for key, value in about.items() if isinstance(value, str)}
        columns |= known.keys()
        values[cut.id] = known.get(column, "")
    if strange := [row.id for row in rows if row.id not in values]:
        raise PredictionsError(
            f"{name}: {len(strange)} clips are not in {corpus} ({first_few(strange)}); give the "
            "prepared corpus that was predicted"
        )
    if column not in columns:
        raise PredictionsError(f"{corpus} has no column {column!r}; it has {', '.join(sorted(columns))}")
    found: dict[str, list[Prediction]] = {part: [] for part in sorted({values[row.id] for row in rows})}
    for row in rows:
        found[values[row.id]].append(row)
    return {part or "unknown": those for part, those in found.items()}


def _read(sources: Sequence[Source], split: str | None) -> dict[str, list[Prediction]]:
    """Name -> rows; what is given twice is found by its ids."""
    found: dict[str, list[Prediction]] = {}
    for number, (name, rows) in enumerate(_each(sources, split), start=1):
        found[name if name not in found else f"{name} (number {number})"] = rows
    return found


def _each(sources: Sequence[Source], split: str | None) -> list[tuple[str, list[Prediction]]]:
    paths = [_path(source) for source in sources]
    shown = [path or ROWS for path in paths]
    require_run_for_split(split, shown, any(path is not None and path.is_dir() for path in paths))
    return [
        (ROWS, _rows(source)) if path is None else read_path(path, split)
        for source, path in zip(sources, paths, strict=True)
    ]


def _path(source: Source) -> Path | None:
    """The path that a source is; None for rows."""
    return Path(source) if isinstance(source, str | PathLike) else None


def _rows(source: Any) -> list[Prediction]:
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise PredictionsError(
            f"predictions are given as {type(source).__name__}; give a run, the path of a run folder or a "
            "predictions file, or a list of rows"
        )
    return checked_rows(((f"row {number}", _plain(row)) for number, row in enumerate(source, 1)), ROWS)


def _plain(row: Any) -> Any:
    """A row as JSON has it: numbers of numpy as plain ones."""
    if isinstance(row, Prediction):
        row = row.as_dict()
    if isinstance(row, Mapping):
        return {key: _plain(value) for key, value in row.items()}
    return row.item() if callable(getattr(row, "item", None)) and not getattr(row, "shape", ()) else row
