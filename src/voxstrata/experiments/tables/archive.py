"""The answers behind a table in one file, without weights, recordings or paths of this machine.

From such archives alone the table is written again, without training, and any row can be scored again.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxstrata.documents import read_json_object, to_yaml
from voxstrata.predictions import Prediction, as_lines, read_predictions
from voxstrata.recipes.reading import read_yaml
from voxstrata.runs import RunFolder, atomic_write

#: Decimals of a probability: the rest is noise that does not pack.
_DECIMALS = 6


def write_archive(path: Path, runs: Iterable[RunFolder]) -> None:
    """Writes answers, coefficients, recipes and provenance of complete runs as a tar, packed by xz.

    The same runs give the same bytes.

    Args:
        path: of the archive; an older one is replaced at the end.
        runs: of one folder; each stands under its own name.

    Raises:
        VoxstrataError: if a run's files cannot be read, or the archive not be written.
    """
    ordered = sorted({run.path: run for run in runs}.values(), key=lambda run: run.path.name)
    write_packed(
        path,
        (
            (str(run.path.name / file.relative_to(run.path)), text)
            for run in ordered
            for file, text in _kept(run)
        ),
    )


def write_packed(path: Path, files: Iterable[tuple[str, str]]) -> None:
    """Writes texts by name as a tar, packed by xz; the same texts give the same bytes.

    Raises:
        VoxstrataError: if it cannot be written.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, text in files:
            entry = tarfile.TarInfo(name)
            content = text.encode()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    atomic_write(path, packed.getvalue())


def _kept(run: RunFolder) -> Iterator[tuple[Path, str]]:
    """Each file and what is kept of it, the marker of a complete run last."""
    runs = run.path.parent
    recipe, provenance = read_yaml(run.recipe), read_json_object(run.provenance)
    yield run.recipe, to_yaml(placeless(recipe, runs))
    yield run.provenance, json.dumps(placeless(provenance, runs), indent=2) + "\n"
    coefficients = run.model / "coefficients.json"
    if coefficients.is_file():
        yield coefficients, coefficients.read_text(encoding="utf-8")
    for answers in sorted(run.predictions("any").parent.glob("*.jsonl")):
        yield answers, "".join(as_lines(map(published, read_predictions(answers))))
    yield run.complete, run.complete.read_text(encoding="utf-8")


def placeless(value: Any, runs: Path) -> Any:
    """A value whose paths are relative to the folder for runs; of those outside it the last name is left."""
    if isinstance(value, dict):
        return {placeless(key, runs): placeless(one, runs) for key, one in value.items()}
    if isinstance(value, list):
        return [placeless(one, runs) for one in value]
    if not isinstance(value, str):
        return value
    path = Path(value)
    for folder in (runs, runs.absolute(), runs.resolve()):
        if path.is_relative_to(folder) and folder.name:
            return str(path.relative_to(folder))
    return path.name if path.is_absolute() else value


def published(row: Prediction) -> Prediction:
    """A row without paths of this machine, and with probabilities rounded."""
    rounded = row.probabilities and {name: round(p, _DECIMALS) for name, p in row.probabilities.items()}
    error = row.error and row.path and row.error.replace(row.path, Path(row.path).name)
    return replace(row, path=None, probabilities=rounded, error=error or row.error)
