"""Which corpora can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from voxstrata.corpora import an4, librispeech, ravdess, table, tess
from voxstrata.corpora.clip import Clip
from voxstrata.labels import EMOTIONS


@dataclass(frozen=True)
class Reader:
    """How a corpus is read.

    Args:
        name: as given on the command line.
        read: from the folder in which the corpus was unpacked to its clips, in a fixed order.
        description: one line.
        labels: the corpus's classes, in the order of a model's outputs; empty where any name is a label.
        folds: groups of speakers; fold k tests the group k - 1, the next group is dev, the rest train.
    """

    name: str
    read: Callable[[Path], list[Clip]]
    description: str
    labels: tuple[str, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()


def _read_synthetic(folder: Path) -> list[Clip]:
    return table.read_table(folder / "clips.jsonl", prefix="synthetic")


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader(
            "ravdess",
            ravdess.read,
            "24 actors, 8 emotions, 2 sentences; six folds of four actors",
            labels=tuple(sorted(ravdess.EMOTIONS.values())),
            folds=ravdess.FOLDS,
        ),
        Reader(
            "tess",
            tess.read,
            "2 speakers, 7 emotions, one carrier phrase; OAF train, YAF test",
            labels=tuple(sorted(tess.EMOTIONS.values())),
        ),
        Reader("an4", an4.read, "spelt names and numbers with transcripts; dev carved from train by speaker"),
        Reader("librispeech", librispeech.read, "read books with transcripts; splits are the folders' names"),
        Reader(
            "synthetic",
            _read_synthetic,
            "emotional speech that `voxstrata corpus synth` made",
            labels=EMOTIONS,
        ),
        Reader("table", table.read, "any CSV, TSV or JSONL with a column `path`, one row a clip"),
    )
}
