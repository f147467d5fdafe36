"""What a run was trained on: a list of clips in its folder, with its parents' lists carried along.

The list holds hashes, not words or samples: enough to find a clip again, too little to pass a corpus on.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from voxstrata.backbone.locate import packaged
from voxstrata.config.leaks import SELECTION, STAGES
from voxstrata.corpora.pseudo_labels import SOURCE as PSEUDO_LABELS
from voxstrata.corpora.transcripts import normalize_transcript
from voxstrata.documents import parse_json
from voxstrata.errors import VoxstrataError
from voxstrata.methods.adaltm.task_vector import is_task_vector, source_of_vector
from voxstrata.runs import TRAINING_CLIPS, atomic_write

FORMAT = 1
#: Hexadecimal digits of a hash that are kept: among 10^6 clips two agree by chance once in 10^7 lists.
_DIGITS = 16
#: Bytes of the longest line of a list: the first one names the uses and what is not known.
_LONGEST_LINE = 1 << 20
_ADVICE = "train that run again, or remove the file: then what it was trained on counts as not known"
#: What a clip can have been used for, as a list names it.
_STAGES = (*STAGES, SELECTION)
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
        number = 0
        try:
            with gzip.open(path, "rb") as file:
                lines = iter(lambda: file.readline(_LONGEST_LINE + 1), b"")
                names, unknown = _head(_parsed(next(lines, b""), path, 1), path)
                uses: list[set[ClipTrace]] = [set() for _ in names]
                for number, line in enumerate(lines, start=2):
                    trace, members = _trace(_parsed(line, path, number), len(names))
                    for use in members:
                        uses[use].add(trace)
        except ValueError as fault:
            raise VoxstrataError(f"{path}, line {max(number, 1)}: {fault}; {_ADVICE}") from None
        except (OSError, EOFError, zlib.error) as fault:
            reason = getattr(fault, "strerror", None) or "it is not packed by gzip, or is cut off"
            raise VoxstrataError(f"{path} is no list of training clips: {reason}; {_ADVICE}") from None
        # One set at a time is there twice.
        clips = [frozenset(uses.pop()) for _ in names][::-1]
        return cls(dict(zip(names, clips, strict=True)), unknown)


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


def copy_list(source: Path, target: Path) -> None:
    """Copies a list that can be read.

    Raises:
        VoxstrataError: if it cannot.
    """
    TrainingClips.read(source)
    shutil.copyfile(source, target)


def _parsed(line: bytes, path: Path, number: int) -> Any:
    if not line.strip():
        raise ValueError("the line is empty")
    if len(line) > _LONGEST_LINE:
        raise ValueError("the line is too long for a list of training clips")
    return parse_json(line, f"{path}, line {number}", advice=_ADVICE)


def _head(head: Any, path: Path) -> tuple[list[Use], tuple[str, ...]]:
    """The uses that the first line of a list names, and what is not known."""
    if not isinstance(head, dict) or "format" not in head:
        raise ValueError('the first line of a list has "format", "uses" and "unknown"')
    if head["format"] != FORMAT:
        found = str(head["format"])[:40]
        raise VoxstrataError(f"{path} has format {found}, this version reads {FORMAT}; update voxstrata")
    pairs = head.get("uses")
    if not isinstance(pairs, list) or not all(_are_texts(pair, 2) for pair in pairs):
        raise ValueError('"uses" are pairs of a stage and a run')
    names = [Use(*pair) for pair in pairs]
    if odd := [use.stage for use in names if use.stage not in _STAGES]:
        raise ValueError(f"there is no stage {odd[0][:40]!r}; allowed are {', '.join(_STAGES)}")
    if len(set(names)) < len(names):
        raise ValueError("a use stands twice")
    unknown = head.get("unknown")
    if not _are_texts(unknown):
        raise ValueError('"unknown" is a list of texts')
    return names, tuple(unknown or ())


def _trace(row: Any, uses: int) -> tuple[ClipTrace, list[int]]:
    """A clip's row of a list, and the numbers of its uses."""
    if not isinstance(row, list) or len(row) != 5:
        raise ValueError("a clip is a list of id, speaker, hash of the samples, hash of the words, uses")
    name, speaker, audio, sentence, members = row
    if not _are_texts([name, audio]) or not name:
        raise ValueError("an id and the hash of the samples are texts")
    if not _are_texts([text for text in (speaker, sentence) if text is not None]):
        raise ValueError("a speaker and the hash of the words are texts, or null")
    if not isinstance(members, list) or not all(type(one) is int and 0 <= one < uses for one in members):
        raise ValueError(f"a clip's uses are whole numbers from 0 to {uses - 1}")
    return ClipTrace(name, _shared(speaker), audio, sentence), members


def _are_texts(value: Any, count: int | None = None) -> bool:
    """Whether a value is a list of texts, of so many."""
    good = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return good and count in (None, len(value))


def _shared(speaker: str | None) -> str | None:
    """The name as one string for all clips of the speaker."""
    return None if speaker is None else sys.intern(speaker)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
