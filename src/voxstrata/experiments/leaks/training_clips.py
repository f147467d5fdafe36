"""What a run was trained on: a list of clips in its folder, with its parents' lists carried along.

The list holds hashes, not words or samples: enough to find a clip again, too little to pass a corpus on.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from voxstrata.backbone.locate import packaged
from voxstrata.corpora.pseudo_labels import SOURCE as PSEUDO_LABELS
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.documents import parse_json
from voxstrata.errors import VoxstrataError
from voxstrata.methods.adaltm.task_vector import is_task_vector, source_of_vector
from voxstrata.runs import TRAINING_CLIPS, atomic_write

FORMAT = 1
#: Hexadecimal digits of a hash that are kept: among 10^6 clips two agree by chance once in 10^7 lists.
_DIGITS = 16
#: What a file that is none raises where it is read.
_NO_LIST = (OSError, EOFError, ValueError, LookupError, TypeError, StopIteration, zlib.error)
#: Where a model lies below the folder that holds its list.
_BELOW = ("encoder", "model", "model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class ClipTrace:
    """By what a clip is found again.

    Args:
        id: of the clip.
        speaker: None where it is not known.
        audio: first digits of the hash of its samples; "" where it is not known.
        sentence: first digits of the hash of its normalised transcript; None without one.
    """

    id: str
    speaker: str | None
    audio: str
    sentence: str | None

    @classmethod
    def of(cls, cut: Cut, name: str | None = None) -> ClipTrace:
        """The trace of a prepared clip.

        Args:
            cut: the clip; nothing of it is kept.
            name: its id, where a string of it is held already.
        """
        (supervision,) = cut.supervisions
        text = normalize_transcript(supervision.text) if supervision.text else None
        audio = str((cut.custom or {}).get("audio_sha256", ""))[:_DIGITS]
        sentence = None if text is None else _hash(text)
        return cls(name or cut.id, _shared(supervision.speaker), audio, sentence)


def has_pseudo_label(cut: Cut) -> bool:
    """Whether a model gave the clip's emotion."""
    return (cut.supervisions[0].custom or {}).get("emotion_source") == PSEUDO_LABELS


@dataclass(frozen=True, order=True)
class Use:
    """One use of clips.

    Args:
        stage: one of `config.leaks.STAGES`, or "selection" (the loss on them chose the weights).
        run: name of the run folder.
    """

    stage: str
    run: str


@dataclass(frozen=True)
class TrainingClips:
    """What a model has heard.

    Args:
        uses: use -> its clips.
        unknown: what no list is known of, one line each.
    """

    uses: Mapping[Use, frozenset[ClipTrace]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    def with_parent(self, other: TrainingClips) -> TrainingClips:
        """Both together."""
        uses = dict(self.uses)
        for use, clips in other.uses.items():
            uses[use] = uses[use] | clips if use in uses else clips
        return TrainingClips(uses, tuple(dict.fromkeys([*self.unknown, *other.unknown])))

    def write(self, path: Path) -> None:
        """Writes the list: a line that tells the uses, then a line a clip; the bytes follow from the list."""
        # As gzip.compress with mtime=0, but line by line: only the packed list is ever held as a whole.
        packer, packed = zlib.compressobj(9, wbits=31), io.BytesIO()
        for row in self._rows():
            packed.write(packer.compress(f"{json.dumps(row, ensure_ascii=False)}\n".encode()))
        packed.write(packer.flush())
        atomic_write(path, packed.getvalue())

    def _rows(self) -> Iterator[Any]:
        """What the lines of a list hold, in their order."""
        names = sorted(self.uses)
        yield {"format": FORMAT, "uses": [[use.stage, use.run] for use in names], "unknown": self.unknown}
        clips = list(frozenset().union(*self.uses.values()))
        # From the last key to the first: no clip needs a key of its own beside what it holds.
        clips.sort(key=lambda clip: clip.sentence or "")
        clips.sort(key=lambda clip: clip.speaker or "")
        clips.sort(key=lambda clip: clip.audio)
        clips.sort(key=lambda clip: clip.id)
        for clip in clips:
            numbers = [number for number, use in enumerate(names) if clip in self.uses[use]]
            yield [clip.id, clip.speaker, clip.audio, clip.sentence, numbers]

    @classmethod
    def read(cls, path: Path) -> TrainingClips:
        """Reads a list.

        Raises:
            VoxstrataError: if the file is none, or one of another format.
        """
        advice = "train that run again, or remove the file: then what it was trained on counts as not known"
        try:
            with gzip.open(path, "rb") as file:
                head = parse_json(next(file), f"line 1 of {path}", advice=advice)
                if head["format"] != FORMAT:
                    raise VoxstrataError(
                        f"{path} has format {head['format']}, this version reads {FORMAT}; update voxstrata"
                    )
                names = [Use(*pair) for pair in head["uses"]]
                uses: list[set[ClipTrace]] = [set() for _ in names]
                for number, line in enumerate(file, start=2):
                    trace, told = _trace(parse_json(line, f"line {number} of {path}", advice=advice))
                    for use in told:
                        uses[use].add(trace)
                # One set at a time is there twice.
                clips = [frozenset(uses.pop()) for _ in names][::-1]
                return cls(dict(zip(names, clips, strict=True)), _texts(head["unknown"]))
        except _NO_LIST as fault:
            raise VoxstrataError(
                f"{path} is no list of training clips ({type(fault).__name__}); {advice}"
            ) from None


def training_clips_of(source: str | Path, role: str) -> TrainingClips:
    """What a model was trained on, as far as a list beside it tells.

    Args:
        source: a run, a model folder or a checkpoint in one, a saved task vector, a packaged name, a hub id.
        role: what the model is to the run that asks, for the line that says that nothing is known.

    Raises:
        VoxstrataError: if there is a list that cannot be read.
    """
    path = list_of(source)
    if path is not None:
        return TrainingClips.read(path)
    kind = "given" if Path(source).exists() else "published"
    return TrainingClips(unknown=(f"{role} {source}: {kind} without a list of its training clips",))


def list_of(source: str | Path) -> Path | None:
    """The list of a model's training clips; None where there is none."""
    if (folder := packaged(str(source))) is not None:
        place = folder
    else:
        place = Path(source)
        if place.is_file() and is_task_vector(place):
            return list_of(source_of_vector(place))
    while True:
        if (place / TRAINING_CLIPS).is_file():
            return place / TRAINING_CLIPS
        if place.name not in _BELOW:
            return None
        place = place.parent


def _trace(row: Any) -> tuple[ClipTrace, list[int]]:
    """A clip's row of a list, and the numbers of its uses."""
    name, speaker, audio, sentence, uses = row
    if not all(isinstance(text, str) for text in (name, audio)):
        raise TypeError("an id and a hash are texts")
    if not all(text is None or isinstance(text, str) for text in (speaker, sentence)):
        raise TypeError("a speaker and a hash are texts")
    if not all(type(number) is int and number >= 0 for number in uses):
        raise TypeError("a use is a number")
    return ClipTrace(name, _shared(speaker), audio, sentence), uses


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError("what is not known is told in texts")
    return tuple(value)


def _shared(speaker: str | None) -> str | None:
    """The name as one string for all clips of the speaker."""
    return None if speaker is None else sys.intern(speaker)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
