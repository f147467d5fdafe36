"""Corpora as a dry run sees them: prepared ones, and releases whose labels and transcripts can be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from voxstrata.corpora.clip import SPLITS
from voxstrata.corpora.label_maps import label_map_named, map_labels
from voxstrata.corpora.msp_podcast import PAPER_CLIPS
from voxstrata.corpora.options import chosen_options, counted, no_note
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.readers import READERS
from voxstrata.errors import CorpusError
from voxstrata.experiments.tables.table import CorpusSpec

#: The corpus of the paper, whose counts are known.
MSP = "msp-podcast"
#: Missing files that are named; the others are counted.
_SHOWN = 3
#: Options of the reader that give the paper's clips.
_PAPER_OPTIONS = {"keep": "paper", "test": "pooled"}


@dataclass(frozen=True)
class CorpusCheck:
    """A corpus, prepared or as its owner ships it.

    Args:
        folder: where it lies.
        name: of the corpus.
        clips: split -> clips.
        paper: split -> clips that the paper has; empty for other corpora.
        missing: audio files that are not there, by the first few and their number.
        notes: how it differs from the paper's.
        prepared: False for a release whose labels and transcripts were counted.
    """

    folder: str
    name: str
    clips: Mapping[str, int]
    paper: Mapping[str, int]
    missing: str
    notes: tuple[str, ...] = ()
    prepared: bool = True


def check_prepared(path: str) -> CorpusCheck:
    """Counts a prepared corpus and looks for its audio files.

    Raises:
        CorpusError: if it cannot be read.
    """
    corpus = PreparedCorpus.load(Path(path))
    clips = {split: corpus.summary.splits[split].clips for split in corpus.splits}
    missing = _missing(corpus.audio_files())
    if corpus.name != MSP:
        return CorpusCheck(path, corpus.name, clips, {}, missing)
    notes = _against_the_paper(clips, corpus.options, left_out=len(corpus.left_out))
    return CorpusCheck(path, corpus.name, clips, PAPER_CLIPS, missing, notes)


def check_release(folder: Path, spec: CorpusSpec) -> CorpusCheck:
    """Counts the turns of an unpacked MSP-Podcast as its preparation would keep them, if all audio is good.

    Labels and transcripts are read; audio files are looked for, not opened.

    Args:
        folder: of the release.
        spec: of the corpus in its table, with the reader's options.

    Raises:
        CorpusError: if it cannot be read, or has no clips to train on.
    """
    options = chosen_options(MSP, READERS[MSP].options, spec.options)
    clips = READERS[MSP].clips(folder, options, no_note)
    for name in spec.maps:
        clips, _ = map_labels(clips, label_map_named(name))
    found = Counter(clip.split for clip in clips)
    counts = {split: found[split] for split in SPLITS}
    if not counts["train"]:
        raise CorpusError(
            f"{folder} has no turns of Train ({counted(found)}); look at Split_Set in its labels, or unpack "
            "it again"
        )
    notes = ["not prepared: counted from labels and transcripts; faults of the audio are not known yet"]
    missing = _missing(clip.path for clip in clips)
    if missing:
        notes.append(f"audio files are not there: {missing}; unpack them before it is prepared")
    notes += _against_the_paper(counts, options)
    return CorpusCheck(str(folder), MSP, counts, PAPER_CLIPS, missing, tuple(notes), prepared=False)


def _against_the_paper(
    clips: Mapping[str, int], options: Mapping[str, str], left_out: int = 0
) -> tuple[str, ...]:
    """How an MSP-Podcast differs from the paper's; nothing where it does not."""
    notes = []
    for name, value in _PAPER_OPTIONS.items():
        if (found := options.get(name)) != value:
            notes.append(
                f"{name}={found or '(unknown)'}, while the paper's clips are those of {name}={value}; to "
                f"compare with the paper, prepare it with --option {name}={value}"
            )
    apart = [
        f"{split} {clips.get(split, 0) - paper:+,}"
        for split, paper in PAPER_CLIPS.items()
        if clips.get(split, 0) != paper
    ]
    if apart:
        skipped = f"; {left_out:,} faults left clips out" if left_out else ""
        notes.append(f"not as many clips as the paper's of release 1.12: {', '.join(apart)}{skipped}")
    return tuple(notes)


def _missing(files: Iterable[Path]) -> str:
    missing = [str(file) for file in files if not file.is_file()]
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    return ", ".join(missing[:_SHOWN]) + more
