"""Batches of a corpus, epoch by epoch: the same (seed, epoch) gives the same batches, whoever asks when."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from lhotse.cut import Cut
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE, audio_file
from voxstrata.batches.augment import augment
from voxstrata.batches.batch import Batch
from voxstrata.batches.buckets import derived_seed, plan_epoch
from voxstrata.batches.clip_store import ClipStore
from voxstrata.batches.clips import EMOTION, BatchClip, TextEncoder, select_clips
from voxstrata.batches.collate import collate, collate_without_audio, no_clips, padded
from voxstrata.batches.phonemes import span_tensors
from voxstrata.batches.prefetch import prefetched
from voxstrata.batches.processes import Share
from voxstrata.batches.waveforms import WaveformCache, crop_start
from voxstrata.config.data import Augmentation
from voxstrata.errors import AudioError, RecipeError
from voxstrata.labels import LabelSet

TARGETS = ("consensus", "votes", "dimensions")
REQUIRED = ("all", "any")


@dataclass(frozen=True)
class BatchOptions:
    """How clips become batches.

    Args:
        batch_size: clips a batch, at most; one batch an epoch may hold fewer.
        crop_s: longest part of a clip that is used: a random one with `shuffle`, else the middle; None: all.
        shuffle: a new order (and new crops) in every epoch; otherwise from short to long.
        seed: of order and crops.
        labels: label set of the class task; None: no class targets.
        field: what of a clip holds its class: "emotion", or one of its corpus's extras, e.g. "gender".
        targets: "consensus" (one class a clip) or "votes" (shares of the annotators' votes over the label
            set; votes for other classes do not count), or "dimensions" (ratings of arousal, valence and
            dominance in the place of classes).
        smoothing: share of a class target that is spread evenly over the other classes.
        vocabulary: writes the transcripts of that task as tokens; None: no tokens.
        require: "all": clips that have what every task needs; "any": also those with a class or words only.
        phonemes: classes of the column `phonemes`; None: no phoneme targets.
        augment: changes of the waveforms, drawn anew in every epoch; None: none.
        task: of a model with several tasks, the one that the batches are for.
        buckets: duration buckets, at most.
        cache_bytes: room for decoded audio in memory.

    Raises:
        RecipeError: if a value is out of range.
    """

    batch_size: int = 32
    crop_s: float | None = None
    shuffle: bool = True
    seed: int = 0
    labels: LabelSet | None = None
    field: str = EMOTION
    targets: str = "consensus"
    smoothing: float = 0.0
    vocabulary: TextEncoder | None = None
    require: str = "all"
    phonemes: tuple[str, ...] | None = None
    augment: Augmentation | None = None
    task: str | None = None
    buckets: int = 10
    cache_bytes: int = 2**30

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise RecipeError(f"targets is {self.targets!r}; allowed: {', '.join(TARGETS)}")
        if self.require not in REQUIRED:
            raise RecipeError(f"require is {self.require!r}; allowed: {', '.join(REQUIRED)}")
        for name in ("batch_size", "buckets"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if not 0 <= self.smoothing < 1:
            raise RecipeError(f"smoothing is {self.smoothing}; give a share from 0 to below 1")
        if self.crop_s is not None and self.crop_s <= 0:
            raise RecipeError(f"crop_s is {self.crop_s}; give a positive number of seconds, or none")


class BatchSource:
    """Batches over lhotse cuts, a pure function of (seed, epoch).

    Clips that lack what the tasks need are left out and counted in `left_out` (reason -> clips).

    Args:
        cuts: one cut a clip; `recording.sources[0].source` is the audio file.
        options: batch size, tasks, crops, seed.

    Raises:
        LabelError: if a label is outside the label set, or a transcript outside the vocabulary.
        CorpusError: if no clip has what the tasks need.
    """

    def __init__(self, cuts: Iterable[Cut], options: BatchOptions) -> None:
        self.options = options
        self._clips, self.left_out = select_clips(
            cuts,
            labels=options.labels,
            targets=options.targets,
            vocabulary=options.vocabulary,
            smoothing=options.smoothing,
            require=options.require,
            field=options.field,
        )
        self._cache = WaveformCache(options.cache_bytes)
        self._share = Share()
        self._needed: Callable[[BatchClip], int] | None = None
        self._longest: int | None = None
        self._batches_per_epoch = len(self.plan(0))

    def __len__(self) -> int:
        """Clips in the source."""
        return len(self._clips)

    def batches_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        return self._batches_per_epoch

    def mean_batch_s(self) -> float:
        """Seconds of audio in a batch, without padding; mean over an epoch."""
        longest_s = self.options.crop_s or float("inf")
        seconds = sum(min(duration_s, longest_s) for _, duration_s in self._clips.durations_s())
        return seconds / self._batches_per_epoch

    def emotion_target_matrix(self) -> NDArray[np.float32]:
        """Class targets of all clips that have one, [N, C], rows sum to 1; column sums are class counts.

        Raises:
            RecipeError: if the source was made without a label set.
        """
        if self.options.labels is None:
            raise RecipeError("this source has no emotion targets; give it a label set")
        targets = (clip.emotion_target or clip.class_target or () for clip in self._clips.values())
        rows = [target for target in targets if any(target)]
        return np.array(rows, dtype=np.float32).reshape(-1, len(self.options.labels))

    def classes_without_clips(self) -> list[str]:
        """The classes that no clip has; none where none are asked for."""
        if self.options.labels is None:
            return []
        # What label smoothing gives a class that a clip is not of.
        least = self.options.smoothing / (len(self.options.labels) - 1) * (1 + 1e-5)
        shares = self.emotion_target_matrix().max(axis=0, initial=0.0)
        return [name for name, share in zip(self.options.labels, shares, strict=True) if share <= least]

    def absent_classes(self) -> str | None:
        """A line about the classes that no training clip has; None where there are none."""
        absent = self.classes_without_clips()
        return f"no training clip is {' or '.join(absent)}; such a class is never learned" if absent else None

    def rating_matrix(self) -> NDArray[np.float32]:
        """Arousal, valence and dominance of all clips, [N, 3].

        Raises:
            RecipeError: if these are not the source's targets.
        """
        if self.options.targets != "dimensions":
            raise RecipeError("this source has no ratings; give it the targets dimensions")
        return np.array([clip.ratings for clip in self._clips.values()], dtype=np.float32)

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; the next one is decoded while the current one is used.

        Args:
            index: epoch index, from 0.
            skip: batches already consumed; they are not decoded again.

        Raises:
            AudioError: if a file cannot be decoded.
        """
        return prefetched(self._batch(self._share.of(ids), index) for ids in self.plan(index)[skip:])

    def shared(self, share: Share) -> BatchSource:
        """The same batches, of each the clips that fall to one process: none of the last ones, perhaps."""
        source = copy.copy(self)
        source._share = share
        return source

    def plan(self, epoch: int) -> list[list[str]]:
        """The clips' ids of each batch of an epoch; every clip occurs exactly once."""
        longest_s = self.options.crop_s or float("inf")
        return plan_epoch(
            [(name, min(duration_s, longest_s)) for name, duration_s in self._clips.durations_s()],
            batch_size=self.options.batch_size,
            buckets=self.options.buckets,
            shuffle=self.options.shuffle,
            seed=self.options.seed,
            epoch=epoch,
        )

    def without_audio(self, ids: Sequence[str]) -> Batch:
        """The batch of these clips with waveforms [B, 0]; nothing is decoded."""
        batch = collate_without_audio([self._clips[name] for name in ids], self.sample_counts(ids))
        return replace(batch, task=self.options.task)

    def sample_counts(self, ids: Sequence[str]) -> list[int]:
        """Samples that a batch has of each clip at 16 kHz, as the manifest tells them."""
        return [self.samples_of(self._clips[name].duration_s) for name in ids]

    def samples_of(self, duration_s: float) -> int:
        """Samples that a batch has of a clip of this length."""
        count, longest = round(duration_s * SAMPLE_RATE), self._crop_samples()
        return count if longest is None else min(count, longest)

    def shorter_than(self, samples: int) -> dict[str, int]:
        """Id -> samples of the clips of which a batch has fewer than these, before augmentation."""
        counts = ((name, self.samples_of(duration_s)) for name, duration_s in self._clips.durations_s())
        return {name: count for name, count in counts if count < samples}

    def longer_than(self, samples: int) -> dict[str, int]:
        """Id -> samples of the clips of which a batch has more than these, before augmentation."""
        counts = ((name, self.samples_of(duration_s)) for name, duration_s in self._clips.durations_s())
        return {name: count for name, count in counts if count > samples}

    def lacking(self, needed: Callable[[BatchClip], int]) -> list[str]:
        """Ids of the clips of which a batch has fewer samples than they need, before augmentation."""
        return [name for name, clip in self._clips.items() if self.samples_of(clip.duration_s) < needed(clip)]

    def leave_out(self, ids: Collection[str], reason: str) -> None:
        """Takes clips out, before the first epoch is asked for; they are counted in `left_out`.

        Args:
            ids: of some of the clips, not all.
            reason: why.
        """
        gone, kept = set(ids), ClipStore(self._clips.vocabulary)
        for name, clip in self._clips.items():
            if name not in gone:
                kept[name] = clip
        self.left_out[reason] = self.left_out.get(reason, 0) + len(self._clips) - len(kept)
        self._clips = kept
        self._batches_per_epoch = len(self.plan(0))

    def keep_at_least(self, needed: Callable[[BatchClip], int]) -> None:
        """Lets augmentation leave a clip the samples that it needs, where it has them."""
        self._needed = needed

    def keep_at_most(self, samples: int | None) -> None:
        """Leaves a clip as it is where augmentation would make it longer than an encoder takes."""
        self._longest = samples

    @property
    def variation(self) -> str | None:
        """What makes a clip give other samples in another epoch, in words; None where they are the same."""
        if self.options.augment is not None:
            return "augmentation"
        longest = self._crop_samples()
        if longest is None or not self.options.shuffle:
            return None
        # Of a part of a file a decoder may give one sample more.
        if all(_samples(clip) + (not clip.whole) <= longest for clip in self._clips.values()):
            return None
        return f"random crops of {self.options.crop_s:g} s"

    def fingerprint(self) -> str:
        """Identity of the clips that epoch 0 gives, by the names of their recordings, in hexadecimal."""
        digest = hashlib.sha256(f"{self._crop_samples()} {self.variation}\n".encode())
        for name in (name for ids in self.plan(0) for name in ids):
            clip = self._clips[name]
            digest.update(f"{name} {clip.path} {clip.offset_s} {clip.duration_s} {clip.whole}\n".encode())
        return digest.hexdigest()

    def recordings(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Size in bytes and time of change in nanoseconds of each clip's file, [N, 2]; none is decoded.

        Raises:
            AudioError: if a file is not there.
        """
        found = []
        for path in (self._clips[name].path for name in ids):
            try:
                about = audio_file(path).stat()
            except OSError as fault:
                raise AudioError(f"cannot read {path}: {fault.strerror}; put the file there") from None
            found.append((about.st_size, about.st_mtime_ns))
        return np.array(found, np.int64).reshape(-1, 2)

    def drop_audio(self) -> None:
        """Gives back the memory of decoded audio."""
        self._cache = WaveformCache(self.options.cache_bytes)

    def _crop_samples(self) -> int | None:
        return None if self.options.crop_s is None else round(self.options.crop_s * SAMPLE_RATE)

    def _batch(self, ids: list[str], epoch: int) -> Batch:
        if not ids:
            return replace(no_clips(), task=self.options.task)
        clips = [self._clips[name] for name in ids]
        parts = [self._part(clip, epoch) for clip in clips]
        batch = replace(collate(clips, [part.samples for part in parts]), task=self.options.task)
        if self.options.augment is not None:
            batch = replace(batch, clean=padded([part.clean for part in parts]))
        if self.options.phonemes is not None:
            starts, phonemes = span_tensors(
                [clip.phonemes for clip in clips],
                self.options.phonemes,
                [part.start_s for part in parts],
                [part.tempo for part in parts],
            )
            batch = replace(batch, phoneme_starts=starts, phonemes=phonemes)
        return batch

    def _part(self, clip: BatchClip, epoch: int) -> _Part:
        """The samples that are used of a clip, cropped and augmented."""
        options, name = self.options, clip.reference.id
        samples, start = self._cache.waveform(clip), 0
        if (longest := self._crop_samples()) is not None:
            start = crop_start(
                len(samples), longest, seed=options.seed, epoch=epoch, clip=name, random=options.shuffle
            )
            samples = samples[start : start + longest]
        if options.augment is None:
            return _Part(samples, samples, start / SAMPLE_RATE)
        rng = np.random.default_rng(derived_seed(options.seed, epoch, name, "augment"))
        needed = 0 if self._needed is None else min(len(samples), self._needed(clip))
        changed = augment(samples, options.augment, rng, at_least=needed)
        if self._longest is not None and len(changed.samples) > self._longest:
            return _Part(samples, samples, start / SAMPLE_RATE)
        return _Part(changed.samples, changed.clean, start / SAMPLE_RATE, changed.tempo)


@dataclass(frozen=True, eq=False)
class _Part:
    samples: NDArray[np.float32]
    clean: NDArray[np.float32]
    start_s: float
    tempo: float = 1.0


def _samples(clip: BatchClip) -> int:
    return round(clip.duration_s * SAMPLE_RATE)
