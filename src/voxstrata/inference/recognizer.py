"""A trained run as a recognizer of recordings: emotion with probabilities, and the transcript."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voxstrata.audio import SAMPLE_RATE, remarks_on_band
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.batch import Batch, Reference
from voxstrata.batches.buckets import drawn
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import AudioError, CheckpointError
from voxstrata.evaluation.priors import GivenPrior
from voxstrata.inference.corpus_rows import corpus_rows
from voxstrata.inference.decision import Decision
from voxstrata.inference.given import Recording, given, has_no_rate
from voxstrata.inference.int8 import alone, encoders_in_int8
from voxstrata.inference.models import AnyModel, find_models
from voxstrata.inference.one_pass import one_pass
from voxstrata.inference.options import checked_options
from voxstrata.inference.path import device_of, fastest_device, predict
from voxstrata.inference.recognition import Recognition, Segment, of_one_clip, of_segments
from voxstrata.inference.rows import (
    noted,
    printable,
    reason,
    remarks_on_clip,
    remarks_on_segments,
)
from voxstrata.inference.speech import Lengths
from voxstrata.inference.timeline import Listener, Options, Timeline
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.encoder_models import DimensionModel
from voxstrata.methods.transcribers.timed_decoding import Phrase, phrases
from voxstrata.methods.transcribers.whisper_decoder import WhisperTranscriber
from voxstrata.predictions import Prediction, one_row_each

#: A recording up to this length is answered as one clip, as a clip of a corpus is; a longer one in segments.
ONE_CLIP_S = 30.0


class Recognizer:
    """Emotion and words of recordings.

    Args:
        models: an emotion model (or one of ratings), one that transcribes, one of each, or one with several
            tasks. Where one is a `WhisperTranscriber`, the words are its own and no other's.
        notes: what it cannot predict and why, for the user.
        unsure_below: an emotion with a lower probability is marked as `unsure`; it stays readable.
        prior: class prior to answer for, in the place of that of the training: "uniform", a mapping, text
            as "anger=1,neutral=3", or a JSON file.
        int8: put the encoders' linear layers in 8 bits, in place, on a CPU; answers differ a little.

    Raises:
        VoxstrataError: if these do not hold, or not for these models.

    Example:
        ``recognizer = vs.Recognizer.load("runs/ser")``; then ``recognizer("call.wav")`` for one recording,
        and ``recognizer.predictions([...])`` for many.
    """

    def __init__(
        self,
        models: Iterable[AnyModel],
        notes: Iterable[str] = (),
        *,
        unsure_below: float | None = None,
        prior: GivenPrior | None = None,
        int8: bool = False,
    ) -> None:
        self.models = tuple(models)
        self.notes = tuple(notes)
        self.decision = Decision.of(self.models, unsure_below, prior)
        self.int8 = int8
        if int8:
            encoders_in_int8(self.models)

    @classmethod
    def load(
        cls,
        folder: str | Path | None,
        *,
        transcriber: str | Path | None = None,
        language: str | None = None,
        words: str | None = None,
        unsure_below: float | None = None,
        prior: GivenPrior | None = None,
        int8: bool = False,
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
            unsure_below: see the class.
            prior: see the class.
            int8: see the class.

        Raises:
            CheckpointError: if the folder holds no model, or one whose transcripts cannot be decoded.
        """
        models, notes = find_models(folder, transcriber=transcriber, language=language, words=words)
        placed = models if int8 else [model.to(fastest_device()) for model in models]
        return cls(placed, notes, unsure_below=unsure_below, prior=prior, int8=int8)

    def __repr__(self) -> str:
        """One line: the models that answer, and where they lie."""
        models = ", ".join(f"{type(model).__name__} over {_described(model)}" for model in self.models)
        where = f"; on {device_of(self.models[0])}" if self.models else ""
        return f"Recognizer({models or 'no models'}{where})"

    def __call__(
        self,
        recording: Recording,
        *,
        sample_rate: float | None = None,
        timeline: bool = False,
        channels: str = "mix",
        turns: str | Path | None = None,
        speech: str = "auto",
    ) -> Recognition:
        """Listens to one recording.

        Up to 30 seconds are answered as one clip. A longer recording is answered in segments of speech, read
        in blocks, so that its length is no matter.

        Args:
            recording: a path; the bytes of an audio file, or a file that is open for bytes; or samples (numpy
                or torch), [N] or [channels, N]: floats in [-1, 1], int16, int32 or uint8; or a pair
                (samples, sample_rate). An iterator of such samples is one long recording, block by block.
            sample_rate: of samples, in Hz; a file tells its own.
            timeline: answer a short recording in segments too.
            channels: "mix" for their mean, "split" for segments and a summary of each.
            turns: an RTTM file, or a folder of them: its speaker turns are answered, with a summary of each
                speaker.
            speech: how segments are found: "energy", "silero" (the extra `vad`), or "auto" for silero where
                it is installed.

        Returns:
            Emotion with probabilities, words and ratings, as far as the models tell them.

        Raises:
            AudioError: if it cannot be read, is silent, or is too short for the encoder.

        Example:
            ``vs.Recognizer.load("runs/ser")("call.wav").emotion``
        """
        options = checked_options(timeline, channels, turns, speech)
        return self._recognize(recording, sample_rate, options)

    def segments(
        self,
        recording: Recording,
        *,
        sample_rate: float | None = None,
        channels: str = "mix",
        turns: str | Path | None = None,
        speech: str = "auto",
    ) -> Iterator[Segment]:
        """The segments of one recording, each as soon as it is answered: for long recordings.

        Args:
            recording: as above; also the other arguments.
            sample_rate: in Hz, of samples.
            channels: "mix" or "split".
            turns: an RTTM file, or a folder of them.
            speech: "auto", "energy" or "silero".

        Yields:
            The segments of each channel and speaker in order of time.

        Raises:
            AudioError: as above.

        Example:
            ``for part in recognizer.segments("meeting.flac"): print(part.start_s, part.emotion)``
        """
        options = checked_options(True, channels, turns, speech)
        with given(recording, sample_rate) as found:
            yield from map(self.decision.marked, Timeline(found, self._listener(), options).segments())

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
        return (found.row for found in self.recognitions(recordings, sample_rate=sample_rate))

    def recognitions(
        self,
        recordings: Iterable[Recording],
        *,
        sample_rate: float | None = None,
        timeline: bool = False,
        channels: str = "mix",
        turns: str | Path | None = None,
        speech: str = "auto",
        progress: Callable[[float, float], None] | None = None,
    ) -> Iterator[Recognition]:
        """As `predictions`, with segments and summaries beside each row; arguments as of a single call.

        Args:
            recordings: of any form; also the other arguments.
            sample_rate: in Hz, of samples that come without a rate.
            timeline: answer short recordings in segments too.
            channels: "mix" or "split".
            turns: an RTTM file, or a folder of them.
            speech: "auto", "energy" or "silero".
            progress: called within long recordings, with the seconds that are answered and all of them.
        """
        options = checked_options(timeline, channels, turns, speech)
        for number, recording in enumerate(recordings, start=1):
            rate = sample_rate if has_no_rate(recording) else None
            try:
                found = self._recognize(recording, rate, options, progress)
            except Exception as fault:
                path = printable(str(recording)) if isinstance(recording, str | Path) else None
                found = Recognition((), None, (), Prediction(id=path or "", path=path, error=reason(fault)))
            if found.row.path is None:
                found = replace(found, row=replace(found.row, id=f"recording {number}"))
            yield found

    def corpus_predictions(self, source: BatchSource) -> Iterator[Prediction]:
        """One row a clip of a prepared corpus, with its references; one that fails has `error`, as above."""
        return corpus_rows(self.answers, source)

    def answers(self, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """One row a clip, in the batches' order, with what its reference tells."""
        for batch in batches:
            for place, rows in enumerate(zip(*self._rows(batch), strict=True)):
                (answer,) = self.decision.for_prior(one_row_each(rows))
                samples = batch.waveforms[place, : int(batch.lengths[place])].float().cpu().numpy()
                yield self.decision.marked(noted(answer, remarks_on_band(samples)))

    def batches_of(
        self,
        corpus: PreparedCorpus,
        split: str,
        fold: int | None = None,
        *,
        batch_size: int = 8,
        limit: int | None = None,
        without: Collection[str] = (),
    ) -> BatchSource:
        """The clips of a prepared corpus, from short to long; for a model of ratings those that are rated.

        Args:
            corpus: whose clips they are.
            split: of it.
            fold: of it; None: its own division.
            batch_size: clips in a batch.
            limit: at most so many clips, drawn by a hash of their ids; None: all.
            without: ids of clips to leave out.

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
        clips = found() if limit is None else drawn(found, limit)
        return BatchSource((clip for clip in clips if clip.id not in without) if without else clips, options)

    def _rows(self, batch: Batch) -> list[list[Prediction]]:
        """The rows of each model."""
        found = self._predicted(self.models, batch)
        if any(isinstance(model, WhisperTranscriber) for model in self.models):
            return [
                rows
                if isinstance(model, WhisperTranscriber)
                else [replace(row, transcript=None) for row in rows]
                for model, rows in zip(self.models, found, strict=True)
            ]
        return found

    def _predicted(self, models: Sequence[AnyModel], batch: Batch) -> list[list[Prediction]]:
        """What each model answers; with 8 bits each clip by itself."""
        batch = batch.to(device_of(models[0]))
        found: list[list[Prediction]] = [[] for _ in models]
        for part in alone(batch) if self.int8 else (batch,):
            with one_pass(models):
                for rows, model in zip(found, models, strict=True):
                    rows += predict(model, [part])
        return found

    @cached_property
    def longest_s(self) -> float:
        """What is answered as one clip, in seconds: 30, or less where the models take less."""
        encoders = [module for model in self.models for module in model.modules()]
        encoders += [model.encoder.base for model in self.models if isinstance(model.encoder, MergedBackbone)]
        limits = [one.longest / SAMPLE_RATE for one in encoders if isinstance(one, SpeechEncoder)]
        return min([ONE_CLIP_S, *limits])

    def _listener(self) -> Listener:
        """What answers the windows of a long recording."""
        whisper = [model for model in self.models if isinstance(model, WhisperTranscriber)]
        others = [model for model in self.models if not isinstance(model, WhisperTranscriber)]

        def answers(batch: Batch) -> list[Prediction]:
            found = self._predicted(others, batch)
            rows = self.decision.for_prior([one_row_each(rows)[0] for rows in zip(*found, strict=True)])
            failed = next((row.error for row in rows if row.error is not None), None)
            if failed is not None:
                raise CheckpointError(failed)
            return rows

        def words(batch: Batch) -> list[Phrase]:
            with torch.no_grad():
                (found,) = phrases(whisper[0], whisper[0].heard(batch.to(device_of(whisper[0]))))
            return found

        return Listener(answers if others else None, words if whisper else None, Lengths(self.longest_s))

    def _recognize(
        self,
        recording: Recording,
        sample_rate: float | None,
        options: Options,
        progress: Callable[[float, float], None] | None = None,
    ) -> Recognition:
        with given(recording, sample_rate) as found:
            name = printable(found.name)
            path = name if isinstance(recording, str | Path) else None
            if options.segments or found.is_longer_than(self.longest_s):
                line = Timeline(found, self._listener(), options)
                parts = []
                for part in line.segments():
                    parts.append(self.decision.marked(part))
                    if progress is not None:
                        progress(part.end_s, line.duration_s)
                answered = of_segments(Prediction(name, path), parts, line.duration_s)
                row = noted(noted(answered.row, line.notes()), remarks_on_segments(answered.segments))
                return replace(answered, row=self.decision.marked(row))
            mono, remarks = found.whole()
        samples = torch.from_numpy(mono)
        batch = Batch((Reference(id=name, path=path),), samples.unsqueeze(0), torch.tensor([len(samples)]))
        (row,) = self.answers([batch])
        return of_one_clip(noted(row, [*remarks, *remarks_on_clip(mono)]), len(samples) / SAMPLE_RATE)


def _described(model: AnyModel) -> str:
    """The encoder of a model, in short."""
    encoder = model.encoder
    base = encoder.base if isinstance(encoder, MergedBackbone) else encoder
    return base.described() if isinstance(base, SpeechEncoder) else type(base).__name__
