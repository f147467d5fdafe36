"""AN4: spelt names, numbers and commands (CMU, 1991), as its lists in `etc/` divide it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from voxstrata.corpora.clip import Clip
from voxstrata.corpora.files import corpus_folder, listed_recording, utf8_lines
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.errors import CorpusError

#: Share of the training speakers that becomes dev, which the release does not have.
DEV_SHARE = 0.1

_LINE = re.compile(r"(.*?)\s*\(([^()]+)\)")


def read(folder: Path) -> list[Clip]:
    """Reads what `etc/an4_{train,test}.fileids` list, with the texts of `.transcription` beside them.

    Dev is carved out of train by speaker. A listed file that is not there is given back all the same,
    to be found missing.

    Raises:
        CorpusError: if a list is not there, cannot be read, or names a file without a transcript.
    """
    root = corpus_folder(folder)
    train = _read_list(root, "train")
    held_out = dev_speakers(clip.speaker for clip in train if clip.speaker)
    clips = [replace(clip, split="dev" if clip.speaker in held_out else "train") for clip in train]
    return clips + _read_list(root, "test")


def dev_speakers(speakers: Iterable[str]) -> frozenset[str]:
    """A tenth of the speakers, at least one: those with the smallest hash, so the choice never wanders."""
    ranked = sorted(set(speakers), key=lambda speaker: hashlib.sha256(speaker.encode()).hexdigest())
    return frozenset(ranked[: max(1, round(DEV_SHARE * len(ranked)))])


def _read_list(root: Path, part: str) -> list[Clip]:
    names, texts = root / "etc" / f"an4_{part}.fileids", root / "etc" / f"an4_{part}.transcription"
    for path in (names, texts):
        if not path.is_file():
            raise CorpusError(f"no AN4 list at {path}; give the folder that holds etc/ and wav/")
    transcripts = _read_transcripts(texts)
    clips, unwritten = [], []
    for line in filter(None, (line.strip() for _, line in utf8_lines(names))):
        place = Path(line)
        if place.name not in transcripts:
            unwritten.append(line)
            continue
        clips.append(
            Clip(
                id=f"an4/{place.name}",
                path=listed_recording(root / "wav" / place),
                speaker=f"an4-{place.parent.name}",
                split=part,
                text=transcripts[place.name],
            )
        )
    if unwritten:
        raise CorpusError(
            f"{texts} has no line for {', '.join(unwritten[:20])} ({len(unwritten)} in all); mend the lists"
        )
    return clips


def _read_transcripts(path: Path) -> dict[str, str | None]:
    """File id -> text, from lines `<s> YES </s> (an251-fash-b)` or without the sentence marks."""
    transcripts: dict[str, str | None] = {}
    for number, line in utf8_lines(path):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise CorpusError(f"{path}, line {number}: expected `TEXT (id)`; found {line[:80]!r}")
        transcripts[match[2]] = normalize_transcript(re.sub(r"</?s>", " ", match[1]))
    return transcripts
