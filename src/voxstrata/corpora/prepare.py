"""From a corpus as its owner ships it to a prepared one: read, checked as a whole, then written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.faults import FaultyCorpusError, clip_faults, inspect_all, split_faults
from voxstrata.corpora.prepared import PreparedCorpus, write_prepared
from voxstrata.corpora.readers import READERS
from voxstrata.corpora.summary import summarize
from voxstrata.errors import CorpusError
from voxstrata.labels import LabelSet


def prepare(
    name: str,
    folder: Path,
    out: Path,
    *,
    skip_bad: bool = False,
    labels: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedCorpus:
    """Reads a corpus, looks at every clip and writes the prepared corpus; on any fault nothing is written.

    Args:
        name: one of `READERS`.
        folder: where the corpus was unpacked; for "table", the table or its folder.
        out: folder to write; made if need be.
        skip_bad: leave out clips with faults instead of refusing. Of clips with the same audio the first
            stays. A speaker in two splits is refused all the same: no clip of it is bad, the division is,
            and dropping either side would change the experiment behind the user's back.
        labels: allowed class names, in the order of a model's outputs; None takes the corpus's own, and for a
            corpus without its own, all names that occur.
        progress: called with (clips looked at, clips in all).

    Raises:
        CorpusError: if there is no such reader, nothing to read, or nowhere to write.
        FaultyCorpusError: with every fault.
        LabelError: if the labels are not a label set.
    """
    if name not in READERS:
        raise CorpusError(f"no corpus {name!r}; there are {', '.join(READERS)}")
    reader = READERS[name]
    allowed = LabelSet(tuple(labels)).names if labels is not None else reader.labels
    _check_writable(out)
    clips = reader.read(folder)
    inspections = inspect_all([clip.path for clip in clips], progress)
    faults = clip_faults(clips, inspections, allowed)
    bad = {fault.position for fault in faults} if skip_bad else set()
    kept = [position for position in range(len(clips)) if position not in bad]
    leaks = split_faults([clips[position] for position in kept])
    if leaks or (faults and not skip_bad) or not kept:
        raise FaultyCorpusError([*faults, *leaks], len(clips))
    chosen = [clips[position] for position in kept]
    audio = [(inspections[position].samples, inspections[position].sha256) for position in kept]
    names = allowed or _labels_of(chosen)
    return write_prepared(
        out,
        name,
        chosen,
        audio,
        labels=names,
        folds=reader.folds,
        summary=summarize(chosen, [samples for samples, _ in audio], names),
        left_out=tuple(map(str, faults)),
    )


def _labels_of(clips: Sequence[Clip]) -> tuple[str, ...]:
    found = {name for clip in clips for name in (clip.emotion, *clip.votes) if name is not None}
    return tuple(sorted(found))


def _check_writable(out: Path) -> None:
    """Says before hours of decoding, not after, that the result has no place."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise CorpusError(
            f"cannot write into {out}: {place} is not a folder one may write to; choose another"
        )
