"""What a table's rows were read from, in one file: without weights, recordings or places of this machine.

Unpacked into a folder for runs it gives the same table without training, and any row can be scored again.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from voxstrata.predictions import Prediction, as_lines, read_predictions
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
        VoxstrataError: if a run's predictions cannot be read, or the archive not be written.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for run in sorted({run.path: run for run in runs}.values(), key=lambda run: run.path.name):
            for name, content in _kept(run):
                entry = tarfile.TarInfo(f"{run.path.name}/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    atomic_write(path, packed.getvalue())


def _kept(run: RunFolder) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, the marker of a complete run last."""
    coefficients = run.model / "coefficients.json"
    told = (run.recipe, run.provenance, *([coefficients] if coefficients.is_file() else []))
    # Corpora and parents by their names: where they lie is this machine's matter.
    here = f"{run.path.parent.resolve()}/"
    for path in told:
        text = path.read_text(encoding="utf-8").replace(here, "").replace(f"{run.path.parent}/", "")
        yield str(path.relative_to(run.path)), text.encode()
    for path in sorted(run.predictions("any").parent.glob("*.jsonl")):
        rows = map(_published, read_predictions(path))
        yield str(path.relative_to(run.path)), "".join(as_lines(rows)).encode()
    yield run.complete.name, run.complete.read_bytes()


def _published(row: Prediction) -> Prediction:
    rounded = row.probabilities and {name: round(p, _DECIMALS) for name, p in row.probabilities.items()}
    return replace(row, path=None, probabilities=rounded)
