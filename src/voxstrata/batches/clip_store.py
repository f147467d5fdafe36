"""The clips of a source in little memory: packed rows, unpacked when a batch is made."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from voxstrata.batches.batch import Reference
from voxstrata.batches.phonemes import Spans


class TextEncoder(Protocol):
    """Writes transcripts as tokens, e.g. a `Vocabulary`, or the tokenizer of a language model."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; a `LabelError` where it holds what cannot be written."""
        ...


@dataclass(frozen=True)
class BatchClip:
    """One clip, ready to be decoded and collated.

    Args:
        reference: what goes through to the predictions file.
        path: the audio file.
        offset_s: where the clip starts in its file.
        duration_s: its length, as the manifest tells it.
        whole: the clip is its whole file.
        emotion_target: C class shares that sum to 1, or are 0 where the clip has no class but words; None
            without a label set of emotions.
        class_target: the same of a label set of another field.
        tokens: transcript tokens, none where the clip has no words but a class; None without a vocabulary.
        ratings: arousal, valence, dominance; None where they are not the targets.
        phonemes: (start in seconds, symbol) in order of time; empty where the corpus does not tell.
    """

    reference: Reference
    path: Path
    offset_s: float
    duration_s: float
    whole: bool
    emotion_target: tuple[float, ...] | None = None
    class_target: tuple[float, ...] | None = None
    tokens: tuple[int, ...] | None = None
    ratings: tuple[float, ...] | None = None
    phonemes: Spans = ()


class ClipStore(Mapping[str, BatchClip]):
    """Id -> clip, in the order in which they were put in.

    A clip takes what its texts take and 0.3 kB, a quarter of what it takes as objects. The folder of a
    recording is kept once for all clips in it, and tokens are not kept but encoded anew.

    Args:
        vocabulary: that the clips' tokens are of; None: they have none.
    """

    def __init__(self, vocabulary: TextEncoder | None = None) -> None:
        self.vocabulary = vocabulary
        self._places: dict[str, int] = {}
        self._folders: list[Path] = []
        self._folder_numbers: dict[Path, int] = {}
        self._durations_s = array("d")
        self._starts, self._ends = array("Q"), array("Q")
        self._rows = bytearray()

    def __setitem__(self, name: str, clip: BatchClip) -> None:
        row = _packed(clip, self._folder_number(clip.path.parent))
        start, end = len(self._rows), len(self._rows) + len(row)
        self._rows += row
        if (place := self._places.get(name)) is not None:
            self._starts[place], self._ends[place] = start, end
            self._durations_s[place] = clip.duration_s
            return
        self._places[name] = len(self._places)
        self._starts.append(start)
        self._ends.append(end)
        self._durations_s.append(clip.duration_s)

    def __getitem__(self, name: str) -> BatchClip:
        place = self._places[name]
        row = self._rows[self._starts[place] : self._ends[place]]
        return self._unpacked(name, self._durations_s[place], row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def durations_s(self) -> Iterator[tuple[str, float]]:
        """Id and length of each clip; no row is unpacked."""
        return zip(self._places, self._durations_s, strict=True)

    def _folder_number(self, folder: Path) -> int:
        number = self._folder_numbers.setdefault(folder, len(self._folders))
        if number == len(self._folders):
            self._folders.append(folder)
        return number

    def _unpacked(self, name: str, duration_s: float, row: bytearray) -> BatchClip:
        number, file, stated, *texts, offset_s, whole, targets, phonemes = json.loads(row)
        path = self._folders[number] / file
        emotion_target, class_target, ratings = (None if t is None else tuple(t) for t in targets)
        speaker, emotion, text, classes, rated = texts
        tokens = None if self.vocabulary is None else tuple(self.vocabulary.encode(text or ""))
        return BatchClip(
            Reference(name, stated or str(path), speaker, emotion, text, classes, rated),
            path,
            offset_s,
            duration_s,
            whole,
            emotion_target,
            class_target,
            tokens,
            ratings,
            tuple((start, symbol) for start, symbol in phonemes),
        )


def _packed(clip: BatchClip, folder: int) -> bytes:
    about = clip.reference
    row = [
        folder,
        clip.path.name,
        None if about.path == str(clip.path) else about.path,
        about.speaker,
        about.emotion,
        about.transcript,
        about.classes and dict(about.classes),
        about.ratings and dict(about.ratings),
        clip.offset_s,
        clip.whole,
        [clip.emotion_target, clip.class_target, clip.ratings],
        clip.phonemes,
    ]
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
