"""A corpus made ready: checked clips as lhotse cuts, and what identifies them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment

from voxstrata.audio import SAMPLE_RATE, audio_file, shown
from voxstrata.corpora.clip import SPLITS, Clip
from voxstrata.corpora.manifest import ADVICE, read_about, read_rows
from voxstrata.corpora.summary import CorpusSummary
from voxstrata.errors import CorpusError
from voxstrata.labels import DIMENSIONS
from voxstrata.runs import atomic_write, sha256_of, write_json

FORMAT_VERSION = 1
CUTS_FILE = "cuts.jsonl.gz"
CORPUS_FILE = "corpus.json"


@dataclass(frozen=True)
class PreparedCorpus:
    """A folder with `cuts.jsonl.gz` and `corpus.json`.

    Args:
        folder: where it lies.
        name: of the corpus.
        labels: class names, in the order of a model's outputs; empty if no clip carries an emotion.
        folds: groups of speakers; empty where the corpus has one fixed division.
        fingerprint: SHA-256, in hexadecimal, over ids, audio, spans, speakers, labels, votes, ratings, texts
            and splits; not over the places of the files.
        summary: counts.
        left_out: what `skip_bad` left out, one line a fault.
        notes: what reader and label maps said: what they left out or changed, what is not known.
        options: of the reader, name -> value.
        maps: names of the label maps that were applied, in order.

    Example:
        ``vs.PreparedCorpus.load("prepared/calls").summary.splits["train"].clips``
    """

    folder: Path
    name: str
    labels: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    fingerprint: str
    summary: CorpusSummary
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    maps: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: str | Path) -> PreparedCorpus:
        """Opens a prepared corpus.

        Args:
            folder: as `prepare` or `voxstrata corpus synth` wrote it.

        Raises:
            CorpusError: if the folder holds none, one of another format, or files of two different ones.
        """
        folder = Path(folder)
        try:
            (folder / CORPUS_FILE).open("rb").close()
            held = sha256_of(folder / CUTS_FILE)
        except (OSError, ValueError) as fault:
            # A name with a zero byte is no file's, and no OSError.
            stated = f"{fault.strerror}: {fault.filename}" if isinstance(fault, OSError) else str(fault)
            raise CorpusError(
                f"no prepared corpus in {shown(folder)} ({stated}); make one with `voxstrata corpus prepare`"
            ) from None
        about = read_about(folder / CORPUS_FILE, FORMAT_VERSION)
        if held != about["cuts_sha256"]:
            raise CorpusError(f"{folder / CUTS_FILE} is not the file that {CORPUS_FILE} describes; {ADVICE}")
        return cls(
            folder=folder,
            name=about["name"],
            labels=tuple(about["labels"]),
            folds=tuple(map(tuple, about["folds"])),
            fingerprint=about["fingerprint"],
            summary=CorpusSummary.from_dict(about["summary"]),
            left_out=tuple(about["left_out"]),
            notes=tuple(about["notes"]),
            options=about["options"],
            maps=tuple(about["maps"]),
        )

    def __repr__(self) -> str:
        """One line: name and place, clips by split, speakers, classes and folds."""
        counts = self.summary.splits
        clips = ", ".join(f"{split} {counts[split].clips}" for split in self.splits) or "none"
        speakers = counts["all"].speakers if "all" in counts else 0
        return (
            f"PreparedCorpus({self.name!r} in {str(self.folder)!r}; clips: {clips}; {speakers} speakers, "
            f"{len(self.labels)} classes, {len(self.folds)} folds)"
        )

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have clips, by the corpus's own division."""
        return tuple(split for split in SPLITS if split in self.summary.splits)

    def cuts(
        self, split: str | None = None, fold: int | None = None, without_folds: Sequence[int] = ()
    ) -> CutSet:
        """The clips of a split, in the corpus's order.

        A cut spans a recording at 16 kHz, or what trimming left of it; `cut.recording.sources[0].source` is
        the file, to be decoded with `voxstrata.audio.load_audio`. Its one supervision has text,
        speaker and, in `custom`, "emotion", "votes" and the corpus's extras. `cut.custom` has "split" and
        "audio_sha256".

        Args:
            split: "train", "dev" or "test"; None for all.
            fold: k from 1 on divides anew: test = group k of `folds`, dev = the next group (the first
                after the last), train = all other speakers.
            without_folds: groups whose speakers are left out of every split; the next group is then the
                next that is there.

        Raises:
            CorpusError: if split or fold does not exist, or has no clips.
        """
        return CutSet.from_cuts(self.stream(split, fold, without_folds))

    def stream(
        self, split: str | None = None, fold: int | None = None, without_folds: Sequence[int] = ()
    ) -> Iterator[MonoCut]:
        """As `cuts`, one at a time from the file, so that the memory needed does not grow with the corpus."""
        if split is not None and split not in SPLITS:
            raise CorpusError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        self._check_folds(fold, without_folds)
        left_out = {speaker for k in without_folds for speaker in self.folds[k - 1]}
        counts: Counter[str] = Counter()
        given = 0
        for row in self._rows():
            speaker = row["supervisions"][0].get("speaker")
            if speaker in left_out:
                continue
            if fold is not None:
                row["custom"]["split"] = self._fold_split(speaker, fold, without_folds)
            counts[row["custom"]["split"]] += 1
            if split in (None, row["custom"]["split"]):
                given += 1
                yield self._cut(row)
        if not given:
            held = ", ".join(f"{name} {counts[name]}" for name in SPLITS if counts[name])
            raise CorpusError(f"{self.name} in {self.folder} has no clips in {split}; it has {held}")

    def audio_files(self) -> Iterator[Path]:
        """The file of every clip, in the corpus's order."""
        for row in self._rows():
            yield audio_file(Path(row["recording"]["sources"][0]["source"]))

    def _rows(self) -> Iterator[dict[str, Any]]:
        folder = self.folder.absolute()
        for row in read_rows(self.folder / CUTS_FILE, self.summary.splits):
            for source in row["recording"]["sources"]:
                # Relative where the audio lies in the folder, so that it can be moved.
                source["source"] = str(folder / source["source"])
            yield row

    def _cut(self, row: dict[str, Any]) -> MonoCut:
        name = row["id"]
        try:
            return MonoCut.from_dict(row)
        except (TypeError, ValueError, LookupError, AttributeError, AssertionError) as fault:
            stated = " ".join(str(fault).split())
            raise CorpusError(
                f"{self.folder / CUTS_FILE}: clip {name!r} is no cut of lhotse ({stated}); {ADVICE}"
            ) from None

    def _check_folds(self, fold: int | None, without_folds: Sequence[int]) -> None:
        allowed = f"1 to {len(self.folds)}" if self.folds else "none"
        for k in (*without_folds, *(() if fold is None else (fold,))):
            if not 1 <= k <= len(self.folds):
                raise CorpusError(f"{self.name} has no fold {k}; there are {allowed}")
        if fold in without_folds:
            raise CorpusError(f"fold {fold} of {self.name} is to be tested on and left out; choose one")

    def _fold_split(self, speaker: str | None, fold: int, without_folds: Sequence[int]) -> str:
        there = [k for k in range(1, len(self.folds) + 1) if k not in without_folds]
        following = there[(there.index(fold) + 1) % len(there)]
        if speaker in self.folds[fold - 1]:
            return "test"
        return "dev" if speaker in self.folds[following - 1] else "train"


def write_prepared(
    folder: Path,
    name: str,
    clips: Sequence[Clip],
    audio: Sequence[tuple[int, str]],
    *,
    labels: tuple[str, ...],
    folds: tuple[tuple[str, ...], ...],
    summary: CorpusSummary,
    spans: Sequence[tuple[int, int]] | None = None,
    left_out: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    options: Mapping[str, str] | None = None,
    maps: tuple[str, ...] = (),
) -> PreparedCorpus:
    """Writes a prepared corpus; a half-written one is reported by `load`, since `corpus.json` comes last.

    Args:
        folder: made if need be; other files in it are left alone.
        name: of the corpus.
        clips: without faults.
        audio: each clip's length in samples at 16 kHz, and the hash of its samples.
        labels: class names.
        folds: groups of speakers.
        summary: of these clips.
        spans: of each clip the stretch of its file that it is, in samples at 16 kHz; None: the whole.
        left_out: one line a fault.
        notes: of reader and label maps.
        options: of the reader.
        maps: names of the label maps.
    """
    spans = [(0, samples) for samples, _ in audio] if spans is None else spans
    lines = [
        json.dumps(_cut(clip, *known, *span).to_dict(), ensure_ascii=False)
        for clip, known, span in zip(clips, audio, spans, strict=True)
    ]
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    fingerprint = _fingerprint(clips, audio, spans, labels, folds)
    prepared = PreparedCorpus(
        folder, name, labels, folds, fingerprint, summary, left_out, notes, dict(options or {}), maps
    )
    atomic_write(folder / CUTS_FILE, packed)
    content = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "labels": labels,
        "folds": folds,
        "fingerprint": fingerprint,
        "cuts_sha256": _sha256(packed),
        "summary": summary.as_dict(),
        "left_out": left_out,
        "notes": notes,
        "options": prepared.options,
        "maps": maps,
    }
    write_json(folder / CORPUS_FILE, content)
    return prepared


def _cut(clip: Clip, samples: int, digest: str, start: int, end: int) -> MonoCut:
    duration_s = (end - start) / SAMPLE_RATE
    source = AudioSource(type="file", channels=[0], source=str(clip.path))
    recording = Recording(clip.id, [source], SAMPLE_RATE, samples, samples / SAMPLE_RATE)
    supervision = SupervisionSegment(
        id=clip.id,
        recording_id=clip.id,
        start=0.0,
        duration=duration_s,
        text=clip.text,
        speaker=clip.speaker,
        custom={**clip.extras, "emotion": clip.emotion, "votes": dict(clip.votes)},
    )
    return MonoCut(
        id=clip.id,
        start=start / SAMPLE_RATE,
        duration=duration_s,
        channel=0,
        supervisions=[supervision],
        recording=recording,
        custom={"split": clip.split, "audio_sha256": digest},
    )


def _fingerprint(
    clips: Sequence[Clip],
    audio: Sequence[tuple[int, str]],
    spans: Sequence[tuple[int, int]],
    labels: Sequence[str],
    folds: Sequence[Sequence[str]],
) -> str:
    rows = sorted(
        [clip.id, digest, clip.speaker, clip.emotion, sorted(clip.votes.items()), clip.text, clip.split]
        + [[name, clip.extras[name]] for name in DIMENSIONS if name in clip.extras]
        for clip, (_, digest) in zip(clips, audio, strict=True)
    )
    lengths = (samples for samples, _ in audio)
    parts = [
        [clip.id, *span]
        for clip, span, samples in zip(clips, spans, lengths, strict=True)
        if span != (0, samples)
    ]
    # A corpus of whole files keeps the fingerprint that it had before clips could be parts of them.
    content = [FORMAT_VERSION, rows, labels, folds, *([sorted(parts)] if parts else [])]
    return _sha256(json.dumps(content, ensure_ascii=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
