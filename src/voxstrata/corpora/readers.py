"""Which corpora can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from voxstrata.corpora import (
    an4,
    crema_d,
    emilia,
    iemocap,
    librispeech,
    msp_podcast,
    own_table,
    ravdess,
    tess,
)
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import readable_content
from voxstrata.corpora.options import Note, ReaderOption
from voxstrata.labels import EMOTIONS


@dataclass(frozen=True)
class Reader:
    """How a corpus is read.

    Args:
        name: as given on the command line.
        read: from the folder in which the corpus was unpacked to its clips, in a fixed order; everything but
            the folder has a default.
        description: one line.
        labels: the corpus's classes, in the order of a model's outputs; empty where any name is a label.
        folds: groups of speakers; fold k tests the group k - 1, the next group is dev, the rest train.
        options: what may be chosen; each is a keyword of `read`.
        tells: `read` takes the keyword `note` and says there what it left out.
        searches: `read` looks through the folder for recordings, where others go by a list.
    """

    name: str
    read: Callable[..., list[Clip]]
    description: str
    labels: tuple[str, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()
    options: tuple[ReaderOption, ...] = ()
    tells: bool = False
    searches: bool = False

    def clips(self, folder: Path, options: Mapping[str, str], note: Note) -> list[Clip]:
        """Reads a corpus.

        Args:
            folder: in which it was unpacked.
            options: a value for each of the reader's options.
            note: receives what the reader has to say.
        """
        notes = {"note": note} if self.tells else {}
        clips = self.read(folder, **options, **notes)
        if self.searches and (passed_over := _passed_over(folder, clips)):
            note(f"passed over: {passed_over}")
        return clips


def _passed_over(folder: Path, clips: list[Clip]) -> str:
    """Recordings in a folder that are in no clip, in words; empty where there are none."""
    content = readable_content(folder.resolve())
    used = {clip.path for clip in clips}
    unused = [path for path in content.recordings if path not in used]
    stated = [f"{len(unused):,} recordings that no clip is of, such as {unused[0]}"] if unused else []
    return "; ".join([*stated, *filter(None, [content.account(others=False)])])


def _read_synthetic(folder: Path) -> list[Clip]:
    return own_table.read_table(folder / "clips.jsonl", prefix="synthetic")


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader(
            "ravdess",
            ravdess.read,
            "24 actors, 8 emotions, 2 sentences; six folds of four actors",
            labels=tuple(sorted(ravdess.EMOTIONS.values())),
            folds=ravdess.FOLDS,
            searches=True,
        ),
        Reader(
            "tess",
            tess.read,
            "2 speakers, 7 emotions, one carrier phrase; OAF train, YAF test",
            labels=tuple(sorted(tess.EMOTIONS.values())),
            options=tess.OPTIONS,
            searches=True,
        ),
        Reader(
            "crema-d",
            crema_d.read,
            "91 actors, 6 emotions, 12 sentences, votes of a crowd; five folds of actors",
            labels=tuple(sorted(crema_d.EMOTIONS.values())),
            folds=crema_d.FOLDS,
            options=crema_d.OPTIONS,
            tells=True,
            searches=True,
        ),
        Reader(
            "iemocap",
            iemocap.read,
            "10 actors in dialogs, 10 emotions, transcripts; five folds of a session each",
            labels=tuple(sorted(iemocap.EMOTIONS.values())),
            folds=iemocap.FOLDS,
            tells=True,
            searches=True,
        ),
        Reader(
            "msp-podcast",
            msp_podcast.read,
            "turns of podcasts, 8 emotions, annotators' votes, transcripts; releases up to 1.12",
            labels=EMOTIONS,
            options=msp_podcast.OPTIONS,
            tells=True,
        ),
        Reader(
            "emilia",
            emilia.read,
            "web speech in six languages with transcripts; emotions from pseudo-labels beside it",
            options=emilia.OPTIONS,
            tells=True,
        ),
        Reader("an4", an4.read, "spelt names and numbers with transcripts; dev carved from train by speaker"),
        Reader(
            "librispeech",
            librispeech.read,
            "read books with transcripts; splits are the folders' names",
            searches=True,
            options=librispeech.OPTIONS,
        ),
        Reader(
            "synthetic",
            _read_synthetic,
            "emotional speech that `voxstrata corpus synth` made",
            labels=EMOTIONS,
        ),
        Reader("table", own_table.read, "any CSV, TSV or JSONL with a column `path`, one row a clip"),
    )
}
