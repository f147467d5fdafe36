"""Emotions that a model gave to clips of a corpus that has none: a table beside the corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.rows import RowError, rows_of
from voxstrata.documents import as_number
from voxstrata.errors import CorpusError

NAMES = ("pseudo-labels.jsonl", "pseudo-labels.csv")

#: What the extra `emotion_source` of a clip with such a label says.
SOURCE = "pseudo-labels"


@dataclass(frozen=True)
class PseudoLabel:
    """One clip's label.

    Args:
        emotion: class name.
        votes: class -> share, such as the probabilities of the model; may be empty.
    """

    emotion: str
    votes: Mapping[str, float]

    def put_on(self, clip: Clip) -> Clip:
        """The clip with this label."""
        extras = {**clip.extras, "emotion_source": SOURCE}
        return replace(clip, emotion=self.emotion, votes=dict(sorted(self.votes.items())), extras=extras)


def read_pseudo_labels(folder: Path, prefix: str) -> dict[str, PseudoLabel] | None:
    """Reads `pseudo-labels.jsonl` or `.csv`: `id`, `emotion`, and shares as `votes:NAME` or `probabilities`.

    A predictions file of voxstrata is one: its rows have `id`, `emotion` and `probabilities`.

    Args:
        folder: of the corpus.
        prefix: of the ids of prepared clips; taken off where it is there.

    Returns:
        Clip id -> label; None where there is no such file.

    Raises:
        CorpusError: if there are two, or a line cannot be read or repeats an id.
    """
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if not found:
        return None
    if len(found) > 1:
        raise CorpusError(f"{folder} holds {' and '.join(NAMES)}; keep one")
    labels: dict[str, PseudoLabel] = {}
    for line, row in rows_of(found[0], needs="id"):
        where = f"{found[0]}, line {line}"
        if isinstance(row, RowError):
            raise CorpusError(f"{where}: {row}")
        identity = str(row.get("id") or "").removeprefix(prefix)
        if not identity or not isinstance(row.get("emotion"), str) or not row["emotion"]:
            raise CorpusError(f"{where}: needs id and emotion; found {', '.join(row) or 'nothing'}")
        if identity in labels:
            raise CorpusError(f"{where}: id {identity!r} stands twice; keep one")
        labels[identity] = PseudoLabel(row["emotion"], _votes(row, where))
    return labels


def _votes(row: Mapping[str, Any], where: str) -> dict[str, float]:
    shares = row.get("probabilities") or {}
    pairs = dict(shares) if isinstance(shares, Mapping) else {"probabilities": shares}
    pairs |= {name[6:]: value for name, value in row.items() if name.startswith("votes:")}
    votes = {}
    for name, value in pairs.items():
        share = as_number(value)
        if not (math.isfinite(share) and share >= 0):
            raise CorpusError(f"{where}: the share of {name!r} must be a number from 0 on; found {value!r}")
        if share:
            votes[name] = share
    return votes
