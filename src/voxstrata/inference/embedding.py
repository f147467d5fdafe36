"""Recordings as vectors: the mean over an encoder's frames, of its last state or of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxstrata.audio import SAMPLE_RATE
from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import AudioError, CheckpointError, counted
from voxstrata.evaluation.shown import html_table
from voxstrata.inference.given import Given, Recording, given, has_no_rate
from voxstrata.inference.path import device_of, fastest_device
from voxstrata.inference.rows import printable, reason
from voxstrata.inference.scan import scan
from voxstrata.inference.windows import windows
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.fits import BASE

#: A recording that is longer is run in equal parts, none longer than this.
LONGEST_S = 30.0

Encoder = SpeechEncoder | MergedBackbone
Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embedding:
    """The vector of one recording, or why there is none.

    Args:
        id: the path, or "recording N" for what has none; of a prepared corpus the clip's id.
        path: of the file; None for samples and bytes.
        vector: [D], or [L, D] of layers 1 to L; None after an error.
        error: why there is none.
    """

    id: str
    path: str | None = None
    vector: Vectors | None = None
    error: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """Vectors of recordings, in the order in which these were given; recordings that failed are in `errors`.

    Args:
        ids: one a row.
        paths: one a row; None for samples and bytes.
        vectors: float32 [clips, D], or [clips, L, D].
        errors: id -> why that recording has no row.

    Example:
        ``found = vs.embed(["a.wav", "b.wav"])``; then ``found.vectors[0] @ found.vectors[1]``.
    """

    ids: tuple[str, ...]
    paths: tuple[str | None, ...]
    vectors: Vectors
    errors: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """One line: how many rows of which shape, and how many recordings failed."""
        failed = f", {len(self.errors):,} failed" if self.errors else ""
        return f"Embeddings({counted(len(self), 'clip')} of {list(self.vectors.shape[1:])}{failed})"

    def _repr_html_(self) -> str:
        norms = np.linalg.norm(self.vectors.reshape(len(self), -1), axis=1)
        rows = [[name, f"{norm:.4g}"] for name, norm in zip(self.ids[:20], norms, strict=False)]
        more = [f"and {len(self) - 20:,} more"] if len(self) > 20 else []
        faults = [f"{name}: {why}" for name, why in self.errors.items()]
        return html_table(repr(self), ("clip", "length of its vector"), rows, [*more, *faults])


class Embedder:
    """An encoder that makes a vector of each recording, one by one: no vector depends on the others.

    Args:
        encoder: on the device that it is to run on.
        layers: a vector for each of the layers 1 to L; else one, of the last state.
    """

    def __init__(self, encoder: Encoder, *, layers: bool = False) -> None:
        self.encoder, self.layers = encoder, layers
        self.base = encoder.base if isinstance(encoder, MergedBackbone) else encoder

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a vector: [D], or [L, D]."""
        width = self.base.hidden_size
        return (self.base.num_layers, width) if self.layers else (width,)

    @classmethod
    def load(cls, model: str | Path, *, layers: bool = False) -> Embedder:
        """From a packaged name, a run, a folder, a file or a hub id.

        As with transformers, the last state has passed the encoder's final layer norm where it has one.

        Raises:
            CheckpointError: if there is no such model, or it has not one encoder.
        """
        encoder = load_backbone(model)
        encoder.final_norm = encoder.family.final_norm(encoder.model) is not None
        return cls(encoder.to(fastest_device()), layers=layers)

    def embeddings(
        self, recordings: Iterable[Recording], *, sample_rate: float | None = None
    ) -> Iterator[Embedding]:
        """The vector of each recording, as soon as it is there; one that fails has `error`.

        Args:
            recordings: of any form that `Recognizer` takes, also mixed.
            sample_rate: in Hz, of samples that come without a rate.
        """
        for number, recording in enumerate(recordings, start=1):
            rate = sample_rate if has_no_rate(recording) else None
            path = printable(str(recording)) if isinstance(recording, str | Path) else None
            name = path or f"recording {number}"
            try:
                with given(recording, rate) as found:
                    one = Embedding(name, path, self._of(found))
            except Exception as fault:
                one = Embedding(name, path, error=reason(fault))
            yield one

    def corpus_embeddings(
        self, corpus: PreparedCorpus, split: str | None = None, fold: int | None = None
    ) -> Iterator[Embedding]:
        """The vector of each clip of a prepared corpus, from short to long; None: of all splits.

        Raises:
            CorpusError: if split or fold does not exist.
        """
        options = BatchOptions(batch_size=1, shuffle=False, cache_bytes=0)
        batches = BatchSource(corpus.stream(split, fold), options).epoch(0)
        for batch in batches:
            (clip,) = batch.references
            samples = batch.waveforms[0, : int(batch.lengths[0])].numpy()
            try:
                one = Embedding(clip.id, clip.path, self._mean([samples]))
            except Exception as fault:
                one = Embedding(clip.id, clip.path, error=reason(fault))
            yield one

    def _of(self, recording: Given) -> Vectors:
        limit_s = min(LONGEST_S, self.base.longest / SAMPLE_RATE)
        if not recording.is_longer_than(limit_s):
            return self._mean([recording.whole()[0]])
        found = scan(recording, split=False)
        parts = int(np.ceil(found.duration_s / limit_s))
        ends = [found.duration_s * k / parts for k in range(parts + 1)]
        spans = [((start, end), 0) for start, end in pairwise(ends)]
        return self._mean(windows(recording, found.tracks, spans))

    @torch.no_grad()
    def _mean(self, parts: Iterable[Vectors]) -> Vectors:
        """The mean over all valid frames of the parts of one recording, [D] or [L, D]; summed in float64."""
        total, frames, training = np.zeros(()), 0, self.encoder.training
        device = device_of(self.base)
        self.encoder.eval()
        for samples in parts:
            lengths = torch.tensor([len(samples)], device=device)
            states = self.encoder(torch.from_numpy(samples).unsqueeze(0).to(device), lengths)
            count = int(states.lengths[0])
            kept = states.layers if self.layers else states.layers[-1:]
            sums = torch.stack([layer[0, :count].double().sum(0) for layer in kept])
            total, frames = total + sums.cpu().numpy(), frames + count
        self.encoder.train(training)
        vector: Vectors = (total / frames).astype(np.float32)
        if not np.isfinite(vector).all():
            raise CheckpointError(
                "the encoder's states are not finite; check its weights (voxstrata inspect), or leave the "
                "recording out"
            )
        return vector if self.layers else vector[0]


def gathered(found: Iterable[Embedding], shape: tuple[int, ...]) -> Embeddings:
    """Vectors as one array; recordings that failed stand beside.

    Args:
        found: one a recording.
        shape: of a vector, for the case that there is none.
    """
    rows, errors = [], {}
    for one in found:
        if one.error is None:
            rows.append(one)
        else:
            errors[one.id] = one.error
    vectors = [row.vector for row in rows if row.vector is not None]
    array = np.stack(vectors) if vectors else np.zeros((0, *shape), np.float32)
    return Embeddings(tuple(row.id for row in rows), tuple(row.path for row in rows), array, errors)


def embed(
    recordings: Recording | Iterable[Recording] | PreparedCorpus,
    model: str | Path | Encoder = BASE,
    *,
    layers: bool = False,
    sample_rate: float | None = None,
    split: str | None = None,
    fold: int | None = None,
) -> Embeddings:
    """Vectors of recordings: the mean over an encoder's frames, as `voxstrata embed` writes them.

    Args:
        recordings: one, many (a list or an iterator), or a prepared corpus. A recording is a path, bytes, an
            open file, samples, or a pair (samples, sample_rate).
        model: a packaged name, a run, a folder or a hub id; or an encoder, which is taken as it is.
        layers: a vector for each of the layers 1 to L; else one, of the last state.
        sample_rate: in Hz, of samples that come without a rate.
        split: of a prepared corpus; None: all of them.
        fold: of a prepared corpus; None: its own division.

    Returns:
        A row for each recording; those that failed are in its `errors`.

    Raises:
        AudioError: if one recording was given, and it fails.
        CheckpointError: if there is no such model.

    Example:
        ``vs.embed(Path("calls").glob("*.wav"), "runs/ser").vectors``
    """
    embedder = (
        Embedder.load(model, layers=layers)
        if isinstance(model, str | Path)
        else Embedder(model, layers=layers)
    )
    if isinstance(recordings, PreparedCorpus):
        return gathered(embedder.corpus_embeddings(recordings, split, fold), embedder.shape)
    if not is_one_recording(recordings):
        many = cast("Iterable[Recording]", recordings)
        return gathered(embedder.embeddings(many, sample_rate=sample_rate), embedder.shape)
    (only,) = embedder.embeddings([cast("Recording", recordings)], sample_rate=sample_rate)
    if only.error is not None:
        raise AudioError(only.error)
    return gathered([only], embedder.shape)


def is_one_recording(recordings: Any) -> bool:
    """Whether it is one recording, not many: a list and an iterator are many."""
    kinds = str | Path | bytes | bytearray | memoryview | np.ndarray | Tensor | Given
    if isinstance(recordings, kinds) or hasattr(recordings, "read"):
        return True
    pair = isinstance(recordings, tuple) and len(recordings) == 2
    return pair and isinstance(recordings[0], np.ndarray | Tensor) and np.ndim(recordings[1]) == 0
