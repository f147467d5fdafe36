"""A trained run as a recognizer of recordings: emotion with probabilities, and the transcript."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxstrata.audio import SAMPLE_RATE, Remark, remarks_on_band, shown
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch, Reference
from voxstrata.batches.buckets import drawn
from voxstrata.batches.processes import Share
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import AudioError, VoxstrataError
from voxstrata.evaluation.shown import html_table, percent
from voxstrata.inference.given import Recording, heard
from voxstrata.inference.models import AnyModel, find_models
from voxstrata.inference.one_pass import one_pass
from voxstrata.inference.path import device_of, fastest_device, predict
from voxstrata.labels import DIMENSIONS, is_one_line
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.encoder_models import DimensionModel
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber
from voxstrata.predictions import Prediction, in_short, one_row_each


@dataclass(frozen=True)
class Recognition:
    """The prediction for a recording; what the model cannot predict is None.

    Args:
        emotion: the most probable class.
        probabilities: class name -> probability.
        transcript: recognised words.
        ratings: arousal, valence, dominance on the scale of the training corpus.
        classes: of further tasks, field -> class name -> probability.
        segments: (start, end) in seconds of what was used, in order.
        note: a remark on the recording, e.g. that its band is narrow.

    Example:
        ``found = recognizer("call.wav")``; then ``found.emotion`` and ``found.probabilities["anger"]``.
    """

    emotion: str | None
    probabilities: Mapping[str, float] | None
    transcript: str | None
    segments: tuple[tuple[float, float], ...]
    ratings: Mapping[str, float] | None = None
    classes: Mapping[str, Mapping[str, float]] | None = None
    note: str | None = None

    def __repr__(self) -> str:
        """One line: what was recognised, long texts cut."""
        share = None if self.emotion is None else (self.probabilities or {}).get(self.emotion)
        told = {
            "emotion": self.emotion,
            "probability": None if share is None else round(share, 3),
            "transcript": self.transcript,
            "ratings": self.ratings,
            "classes": self.classes,
            "note": self.note,
        }
        return f"Recognition({in_short(told)})"

    def _repr_html_(self) -> str:
        shares = {"": self.probabilities or {}, **(self.classes or {})}
        rows = [
            (f"{field} {name}".strip(), percent(share))
            for field, found in shares.items()
            for name, share in sorted(found.items(), key=lambda pair: -pair[1])
        ]
        rows += [(name, f"{value:.2f}") for name, value in (self.ratings or {}).items()]
        notes = [text for text in (self.transcript, self.note) if text]
        return html_table(self.emotion or "recognised", ("class", "percent, or rating"), rows, notes)


class Recognizer:
    """Emotion and words of recordings.

    Args:
        models: an emotion model (or one of ratings), one that transcribes, one of each, or one with several
            tasks. Where one is a `WhisperTranscriber`, the words are its own and no other's.
        notes: what it cannot predict and why, for the user.

    Example:
        ``recognizer = vs.Recognizer.load("runs/ser")``; then ``recognizer("call.wav")`` for one recording,
        and ``recognizer.predictions([...])`` for many.
    """

    def __init__(self, models: Iterable[AnyModel], notes: Iterable[str] = ()) -> None:
        self.models = tuple(models)
        self.notes = tuple(notes)

    @classmethod
    def load(
        cls,
        folder: str | Path | None,
        *,
        transcriber: str | Path | None = None,
        language: str | None = None,
        words: str | None = None,
    ) -> Recognizer:
        """From a run or model folder, or a published recogniser (a transformers folder, or a fetched hub id).

        An AdaLTM run's transcript comes from the ASR expert it merged; without one it comes, as that of
        every run without words of its own, from the decoder of its base where that is a whole Whisper. The
        models are put on the GPU where there is one.

        Args:
            folder: of the model; None for a transcriber alone.
            transcriber: a whole Whisper whose words are taken.
            language: of Whisper's transcripts; None to detect it in each clip.
            words: "plain" lets that decoder listen to Whisper's own encoder, "merged" to that of the model.

        Raises:
            CheckpointError: if the folder holds no model, or one whose transcripts cannot be decoded.
        """
        models, notes = find_models(folder, transcriber=transcriber, language=language, words=words)
        return cls([model.to(fastest_device()) for model in models], notes)

    def __repr__(self) -> str:
        """One line: the models that answer, and where they lie."""
        models = ", ".join(f"{type(model).__name__} over {_described(model)}" for model in self.models)
        where = f"; on {device_of(self.models[0])}" if self.models else ""
        return f"Recognizer({models or 'no models'}{where})"

    def __call__(self, recording: Recording, *, sample_rate: float | None = None) -> Recognition:
        """Listens to one recording.

        Args:
            recording: a path; the bytes of an audio file, or a file that is open for bytes; or samples (numpy
                or torch), [N] or [channels, N]: floats in [-1, 1], int16, int32 or uint8; or a pair
                (samples, sample_rate).
            sample_rate: of samples, in Hz; a file tells its own.

        Returns:
            Emotion with probabilities, words and ratings, as far as the models tell them.

        Raises:
            AudioError: if it cannot be read, is silent, or is too short for the encoder.

        Example:
            ``vs.Recognizer.load("runs/ser")("call.wav").emotion``
        """
        row, duration_s = self._recognize(recording, sample_rate)
        ratings = {name: value for name in DIMENSIONS if (value := getattr(row, name)) is not None}
        segments = ((0.0, duration_s),)
        return Recognition(
            row.emotion, row.probabilities, row.transcript, segments, ratings or None, row.classes, row.note
        )

    def predictions(
        self, recordings: Iterable[Recording], *, sample_rate: float | None = None
    ) -> Iterator[Prediction]:
        """One row a recording, in their order; one that fails has `error`, and the rest goes on.

        Args:
            recordings: a list, generator or other iterable of paths, open files, bytes, samples, and pairs
                (samples, sample_rate), also mixed; each is taken when its row is asked for.
            sample_rate: in Hz, of samples that come without a rate.

        Yields:
            Rows as in a predictions file. `id` is the path, or "recording N" for what has none; bytes of a
            file's name that are no text are escaped.

        Raises:
            AudioError: if `recordings` is one recording, which goes to the recognizer itself.

        Example:
            ``for row in recognizer.predictions(Path("calls").glob("*.wav")): print(row.path, row.emotion)``
        """
        if isinstance(recordings, str | Path | bytes | np.ndarray | Tensor) or hasattr(recordings, "read"):
            raise AudioError(
                f"one recording was given ({type(recordings).__name__}); call recognizer(recording), or give "
                "a list"
            )
        return self._predictions(recordings, sample_rate)

    def _predictions(
        self, recordings: Iterable[Recording], sample_rate: float | None
    ) -> Iterator[Prediction]:
        for number, recording in enumerate(recordings, start=1):
            bare = isinstance(recording, np.ndarray | Tensor)
            try:
                row = self._recognize(recording, sample_rate if bare else None)[0]
            except Exception as fault:
                path = _printable(str(recording)) if isinstance(recording, str | Path) else None
                row = Prediction(id=path or "", path=path, error=_reason(fault))
            yield row if row.path is not None else replace(row, id=f"recording {number}")

    def corpus_predictions(self, source: BatchSource) -> Iterator[Prediction]:
        """One row a clip of a prepared corpus, with its references; one that fails has `error`, as above."""
        plan, done = source.plan(0), 0
        asked: set[str] = set()
        while done < len(plan):
            batches = source.epoch(0, skip=done)
            for ids in plan[done:]:
                try:
                    rows, failed = list(self.answers([next(batches)])), False
                except Exception:
                    # Once more, clip by clip, to see which one it was; then on behind this batch.
                    rows, failed = [self._alone(source, done, k, ids) for k in range(len(ids))], True
                asked |= {name for row in rows if row.error is None for name in row.as_dict()}
                yield from (row if row.error is None else _asked_only(row, asked) for row in rows)
                done += 1
                if failed:
                    break

    def _alone(self, source: BatchSource, batch: int, place: int, ids: Sequence[str]) -> Prediction:
        """The row of one clip of a batch."""
        try:
            (row,) = self.answers([next(source.shared(Share(place, len(ids))).epoch(0, skip=batch))])
        except Exception as fault:
            (about,) = source.without_audio([ids[place]]).references
            ratings = {f"reference_{name}": value for name, value in (about.ratings or {}).items()}
            fields: dict[str, Any] = {
                "reference_emotion": about.emotion,
                "reference_transcript": about.transcript,
                "reference_classes": about.classes,
                **ratings,
            }
            return Prediction(about.id, about.path, about.speaker, error=_reason(fault), **fields)
        return row

    def answers(self, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """One row a clip, in the batches' order, with what its reference tells."""
        for batch in batches:
            for place, rows in enumerate(zip(*self._rows(batch), strict=True)):
                (answer,) = one_row_each(rows)
                samples = batch.waveforms[place, : int(batch.lengths[place])].float().cpu().numpy()
                yield _noted(answer, remarks_on_band(samples))

    def batches_of(
        self,
        corpus: PreparedCorpus,
        split: str,
        fold: int | None = None,
        *,
        batch_size: int = 8,
        limit: int | None = None,
    ) -> BatchSource:
        """The clips of a prepared corpus, from short to long; for a model of ratings those that are rated.

        Args:
            corpus: whose clips they are.
            split: of it.
            fold: of it; None: its own division.
            batch_size: clips in a batch.
            limit: at most so many clips, drawn by a hash of their ids; None: all.

        Raises:
            CorpusError: if split or fold does not exist, or no clip is left.
        """
        rated = any(isinstance(model, DimensionModel) for model in self.models)
        options = BatchOptions(
            batch_size=batch_size,
            shuffle=False,
            targets="dimensions" if rated else "consensus",
            cache_bytes=0,
        )
        found = partial(corpus.stream, split, fold)
        return BatchSource(found() if limit is None else drawn(found, limit), options)

    def _rows(self, batch: Batch) -> list[list[Prediction]]:
        """The rows of each model."""
        batch = batch.to(device_of(self.models[0]))
        with one_pass(self.models):
            found = [list(predict(model, [batch])) for model in self.models]
        if any(isinstance(model, WhisperTranscriber) for model in self.models):
            return [
                rows
                if isinstance(model, WhisperTranscriber)
                else [replace(row, transcript=None) for row in rows]
                for model, rows in zip(self.models, found, strict=True)
            ]
        return found

    def _recognize(self, recording: Recording, sample_rate: float | None = None) -> tuple[Prediction, float]:
        mono, remarks, told = heard(recording, sample_rate)
        samples = torch.from_numpy(mono)
        name = _printable(told)
        path = name if isinstance(recording, str | Path) else None
        batch = Batch((Reference(id=name, path=path),), samples.unsqueeze(0), torch.tensor([len(samples)]))
        (row,) = self.answers([batch])
        return _noted(row, remarks), len(samples) / SAMPLE_RATE


def _described(model: AnyModel) -> str:
    """The encoder of a model, in short."""
    encoder = model.encoder
    base = encoder.base if isinstance(encoder, MergedBackbone) else encoder
    return base.described() if isinstance(base, SpeechEncoder) else type(base).__name__


def _asked_only(row: Prediction, asked: Collection[str]) -> Prediction:
    """A row that failed, without references to what the other rows are not asked for."""
    told = row.as_dict()
    odd = [name for name in told if asked and name.startswith("reference_") and name not in asked]
    nothing: dict[str, Any] = dict.fromkeys(odd)
    return replace(row, **nothing)


def _noted(row: Prediction, remarks: Iterable[Remark]) -> Prediction:
    """The row with remarks in its note, behind those that it has."""
    told = [*([row.note] if row.note else []), *map(str, remarks)]
    return replace(row, note="; ".join(told)) if told else row


def _printable(text: str) -> str:
    """Text that UTF-8 can hold, in one line: what a file's name has of other bytes is escaped."""
    if not is_one_line(text):
        text = shown(Path(text))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _reason(fault: Exception) -> str:
    """Why a recording has no answer, in one line; torch writes its stack below the first."""
    told = _printable(next((line.strip() for line in str(fault).splitlines() if line.strip()), ""))
    if isinstance(fault, VoxstrataError):
        return told
    if isinstance(fault, MemoryError) or re.search(r"allocate memory|out of memory", told, re.IGNORECASE):
        return "too long for the memory there is; cut it into shorter recordings, or use a larger machine"
    return f"cannot be recognised ({type(fault).__name__}: {told}); leave the recording out or mend it"
