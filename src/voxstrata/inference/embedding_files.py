"""Vectors of recordings on disk: .npz, .npy with a table beside, or .parquet."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path

import numpy as np

from voxstrata.errors import VoxstrataError
from voxstrata.inference.embedding import Embeddings
from voxstrata.runs import atomic_write, written_whole

SUFFIXES = (".npz", ".npy", ".parquet")


def require_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before the work.

    Raises:
        VoxstrataError: if its end is of no format that there is, or pyarrow is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise VoxstrataError(f"--out {path} ends in none of {', '.join(SUFFIXES)}; name such a file")
    if path.is_dir():
        raise VoxstrataError(f"--out {path} is a folder; name a file")
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise VoxstrataError("a .parquet file needs pyarrow: pip install pyarrow; or name a .npz file")


def table_beside(path: Path) -> Path:
    """The table of ids and paths that belongs to a .npy file, which has no place for them."""
    return path.with_suffix(".csv")


def write_embeddings(found: Embeddings, path: Path) -> None:
    """Writes vectors with the id and path of each row, in the format that the file's end names.

    .npz: arrays `vectors`, `ids` and `paths` ("" where there is none), which numpy reads without pickle.
    .npy: the vectors; ids and paths are in a .csv beside it, a line a row. .parquet: columns `id`, `path` and
    `vector`, a list of fixed length, or of layers a list of such lists.

    Raises:
        VoxstrataError: if it cannot be written.
    """
    require_writable(path)
    paths = [name or "" for name in found.paths]
    kind = path.suffix.lower()
    if kind == ".parquet":
        _write_parquet(found, path)
        return
    with written_whole(path) as partial, partial.open("wb") as file:
        if kind == ".npy":
            np.save(file, found.vectors, allow_pickle=False)
        else:
            np.savez(file, vectors=found.vectors, ids=np.array(found.ids, "U"), paths=np.array(paths, "U"))
    if kind == ".npy":
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("row", "id", "path"))
        rows.writerows(zip(range(len(found)), found.ids, paths, strict=True))
        atomic_write(table_beside(path), text.getvalue())


def _write_parquet(found: Embeddings, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    column = pyarrow.array(found.vectors.reshape(-1), pyarrow.float32())
    for size in reversed(found.vectors.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, size)
    texts = [pyarrow.array(values, pyarrow.string()) for values in (found.ids, found.paths)]
    table = pyarrow.table([*texts, column], names=["id", "path", "vector"])
    with written_whole(path, failures=(pyarrow.ArrowException,)) as partial:
        parquet.write_table(table, partial)
