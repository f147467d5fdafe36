"""Batches of a corpus, epoch by epoch: the same (seed, epoch) gives the same batches, whoever asks when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from lhotse import CutSet
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE
from voxstrata.batches.batch import Batch
from voxstrata.batches.clips import select_clips
from voxstrata.batches.collate import collate
from voxstrata.batches.plan import plan_epoch
from voxstrata.batches.prefetch import prefetched
from voxstrata.batches.waveforms import WaveformCache, crop
from voxstrata.errors import RecipeError
from voxstrata.labels import LabelSet
from voxstrata.vocabulary import Vocabulary

TARGETS = ("consensus", "votes")


@dataclass(frozen=True)
class BatchOptions:
    """How clips become batches.

    Args:
        batch_size: clips a batch, at most; one batch an epoch may hold fewer.
        crop_s: longest part of a clip that is used: a random one with `shuffle`, else the middle; None: all.
        shuffle: a new order (and new crops) in every epoch; otherwise from short to long.
        seed: of order and crops.
        labels: label set of the emotion task; None: no emotion targets.
        targets: "consensus" (one class a clip) or "votes" (shares of the annotators' votes over the label
            set; votes for other classes do not count).
        vocabulary: characters of the transcript task; None: no tokens.
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
    targets: str = "consensus"
    vocabulary: Vocabulary | None = None
    buckets: int = 10
    cache_bytes: int = 2**30

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise RecipeError(f"targets is {self.targets!r}; allowed: {', '.join(TARGETS)}")
        for name in ("batch_size", "buckets"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; at least 1 is needed")
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

    def __init__(self, cuts: CutSet, options: BatchOptions) -> None:
        self.options = options
        clips, self.left_out = select_clips(
            cuts, labels=options.labels, targets=options.targets, vocabulary=options.vocabulary
        )
        self._clips = {clip.reference.id: clip for clip in clips}
        self._cache = WaveformCache(options.cache_bytes)
        self._batches_per_epoch = len(self._plan(0))

    def __len__(self) -> int:
        """Clips in the source."""
        return len(self._clips)

    def batches_per_epoch(self) -> int:
        """Batches in an epoch; the same in every epoch."""
        return self._batches_per_epoch

    def emotion_target_matrix(self) -> NDArray[np.float32]:
        """Emotion targets of all clips, [N, C], rows sum to 1; its column sums are the class counts.

        Raises:
            RecipeError: if the source was made without a label set.
        """
        if self.options.labels is None:
            raise RecipeError("this source has no emotion targets; give it a label set")
        return np.array([clip.emotion_target for clip in self._clips.values()], dtype=np.float32)

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; the next one is decoded while the current one is used.

        Args:
            index: epoch index, from 0.
            skip: batches already consumed; they are not decoded again.

        Raises:
            AudioError: if a file cannot be decoded.
        """
        return prefetched(self._batch(ids, index) for ids in self._plan(index)[skip:])

    def _plan(self, epoch: int) -> list[list[str]]:
        longest_s = self.options.crop_s or float("inf")
        return plan_epoch(
            [(name, min(clip.duration_s, longest_s)) for name, clip in self._clips.items()],
            batch_size=self.options.batch_size,
            buckets=self.options.buckets,
            shuffle=self.options.shuffle,
            seed=self.options.seed,
            epoch=epoch,
        )

    def _batch(self, ids: list[str], epoch: int) -> Batch:
        clips = [self._clips[name] for name in ids]
        waveforms = [self._cache.waveform(clip) for clip in clips]
        if self.options.crop_s is not None:
            samples = round(self.options.crop_s * SAMPLE_RATE)
            waveforms = [
                crop(w, samples, seed=self.options.seed, epoch=epoch, clip=name, random=self.options.shuffle)
                for name, w in zip(ids, waveforms, strict=True)
            ]
        return collate(clips, waveforms)
