"""A recording of any length answered in segments, in bounded memory: emotions and words on one time axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE, NoSound, Remark
from voxstrata.batches.batch import Batch, Reference
from voxstrata.errors import AudioError
from voxstrata.inference.given import Given
from voxstrata.inference.recognition import Segment, ratings_of, weighted_mean
from voxstrata.inference.rttm import Turns, within
from voxstrata.inference.scan import Scan, Track, scan
from voxstrata.inference.speech import (
    Chunk,
    Lengths,
    Piece,
    chunks_of,
    hardly_varies,
    pieces_of,
    speech_by_level,
)
from voxstrata.inference.vad import SileroVad, is_installed
from voxstrata.inference.windows import mono_blocks, windows
from voxstrata.inference.words import Span, Word, among, joined, spread, text_of, words_in
from voxstrata.methods.transcribers.timed_decoding import Phrase
from voxstrata.predictions import Prediction

#: How speech is found.
METHODS = ("auto", "energy", "silero")
#: Windows that a model answers at once.
BATCH = 8
#: Less speech tells little of an emotion; less than the second is not answered. In seconds.
SHORT_S, SHORTEST_S = 0.5, 0.1

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """How a recording is answered in segments.

    Args:
        always: also one that is short enough to be answered as one clip.
        split: each channel is answered for itself; else their mean is.
        speech: "energy", "silero", or "auto" for silero where it is installed.
        turns: speaker turns, which are answered in place of what is found to be speech.
    """

    always: bool = False
    split: bool = False
    speech: str = "auto"
    turns: Turns | None = None

    @property
    def segments(self) -> bool:
        """Whether short recordings are answered in segments too."""
        return self.always or self.split or self.turns is not None


@dataclass(frozen=True)
class Listener:
    """What answers windows.

    Args:
        answers: to a batch of windows: a row each.
        phrases: in a window; None where `answers` gives all the words there are.
        lengths: of what the models take at once.
    """

    answers: Callable[[Batch], list[Prediction]] | None
    phrases: Callable[[Batch], list[Phrase]] | None
    lengths: Lengths


class Timeline:
    """A recording and what is to be answered in it.

    Args:
        given: the recording.
        listener: answers.
        options: how.

    Raises:
        AudioError: if it cannot be read or is silent, or there are no turns for it.
    """

    def __init__(self, given: Given, listener: Listener, options: Options) -> None:
        self.given, self.listener = given, listener
        self.scan = scan(given, split=options.split)
        self.tracks = {track.channel: k for k, track in enumerate(self.scan.tracks)}
        self.pieces = _pieces(given, self.scan, options, listener.lengths)

    @property
    def duration_s(self) -> float:
        """Of the recording."""
        return self.scan.duration_s

    def notes(self) -> tuple[str, ...]:
        """What one should know of the recording and its channels."""
        found = list(map(str, self.scan.remarks))
        for track in self.scan.tracks:
            where = "" if track.channel is None else f"channel {track.channel}: "
            found += [f"{where}{remark}" for remark in map(str, track.remarks)]
            if track.fault:
                found.append(f"{where}{track.fault}")
            elif not any(piece.channel == track.channel for piece in self.pieces):
                found.append(f"{where}no speech found")
        return tuple(found)

    def segments(self) -> Iterator[Segment]:
        """The segments, as soon as they are answered; of each channel and speaker in order of time."""
        chunks = chunks_of(self.pieces, self.listener.lengths)
        asked = [(chunk.window, self.tracks[chunk.pieces[0].channel]) for chunk in chunks]
        before: dict[tuple[int | None, str | None], _Answered] = {}
        for chunk, samples in zip(chunks, windows(self.given, self.scan.tracks, asked), strict=True):
            first = chunk.pieces[0]
            key = first.channel, first.speaker
            answered = self._answered(chunk, samples)
            last = before.get(key)
            if last is not None:
                last.go_over_into(answered)
                yield from last.segments()
            before[key] = answered
        for answered in before.values():
            yield from answered.segments()

    def _answered(self, chunk: Chunk, samples: Samples) -> _Answered:
        begin_s = chunk.window[0]
        found = _Answered(chunk, self._levels(chunk))
        parts = [_cut(samples, piece.window, begin_s) for piece in chunk.pieces]
        rows: list[Prediction | None] = [None] * len(parts)
        sounding = [k for k, part in enumerate(parts) if _is_answered(part)]
        if self.listener.answers is not None:
            for start in range(0, len(sounding), BATCH):
                places = sounding[start : start + BATCH]
                answers = self.listener.answers(_batch([parts[k] for k in places]))
                for k, row in zip(places, answers, strict=True):
                    rows[k] = row
        found.rows = rows
        found.silent = [k for k in range(len(parts)) if k not in sounding]
        if self.listener.phrases is None:
            found.words = _words_of_pieces(chunk, rows)
        elif sounding:
            phrases = self.listener.phrases(_batch([samples]))
            found.words = _words_of_phrases(chunk, phrases)
        return found

    def _levels(self, chunk: Chunk) -> NDArray[np.float32]:
        return self.scan.tracks[self.tracks[chunk.pieces[0].channel]].levels


class _Answered:
    """A chunk and the answers to its windows.

    Args:
        chunk: that was answered.
        levels: of its track.
    """

    def __init__(self, chunk: Chunk, levels: NDArray[np.float32]) -> None:
        self.chunk, self.levels = chunk, levels
        self.rows: list[Prediction | None] = []
        self.silent: list[int] = []
        self.words: list[Word] | None = None
        #: Windows of the chunks before and behind, which may reach into this one.
        self.around: list[tuple[Span, Prediction]] = []

    def windows(self) -> list[tuple[Span, Prediction]]:
        """Window and answer of each piece that has one."""
        pairs = zip(self.chunk.pieces, self.rows, strict=True)
        return [(piece.window, row) for piece, row in pairs if row is not None]

    def go_over_into(self, behind: _Answered) -> None:
        """Lets the next chunk of the same speaker, whose window may overlap, share answers and words."""
        overlap = behind.chunk.window[0], self.chunk.window[1]
        if overlap[1] <= overlap[0]:
            return
        ours, theirs = self.windows(), behind.windows()
        self.around += theirs[:1]
        behind.around += ours[-1:]
        if self.words is not None and behind.words is not None:
            self.words, behind.words = joined(self.words, behind.words, overlap)

    def segments(self) -> Iterator[Segment]:
        """A segment for each piece."""
        pieces = self.chunk.pieces
        words = None if self.words is None else among(self.words, [piece.span for piece in pieces])
        for k, piece in enumerate(pieces):
            segment = Segment(
                piece.start_s,
                piece.end_s,
                channel=piece.channel,
                speaker=piece.speaker,
                note=self._note(k, piece),
            )
            if words is not None and k not in self.silent:
                text = text_of(word.text for word in words[k])
                inside = tuple(_inside(word, piece.span) for word in words[k])
                segment = replace(segment, transcript=text, words=inside)
            yield self._with_answers(segment, k)

    def _with_answers(self, segment: Segment, place: int) -> Segment:
        """The mean of the answers of all windows, each weighted by how much of the segment it has."""
        if place in self.silent or self.rows[place] is None:
            return segment
        span = segment.start_s, segment.end_s
        reaching = [
            (seconds, row)
            for window, row in [*self.windows(), *self.around]
            if (seconds := min(window[1], span[1]) - max(window[0], span[0])) > 0
        ]
        shares = weighted_mean([(s, row.probabilities) for s, row in reaching if row.probabilities])
        fields = dict.fromkeys(name for _, row in reaching for name in row.classes or {})
        classes = {
            name: weighted_mean([(s, (row.classes or {})[name]) for s, row in reaching]) or {}
            for name in fields
        }
        ratings = weighted_mean([(s, those) for s, row in reaching if (those := ratings_of(row))])
        emotion = None if shares is None else max(shares, key=shares.__getitem__)
        return replace(
            segment, emotion=emotion, probabilities=shares, classes=classes or None, ratings=ratings
        )

    def _note(self, place: int, piece: Piece) -> str | None:
        length_s = piece.end_s - piece.start_s
        if place in self.silent:
            short = length_s < SHORTEST_S
            return f"too short: {length_s:.2f} s, and not answered" if short else "silence, and not answered"
        if length_s < SHORT_S:
            return str(short_remark(length_s))
        if hardly_varies(self.levels, piece.start_s, piece.end_s):
            return str(MUSIC)
        return None


#: Of sound whose level hardly varies.
MUSIC = Remark("music-like", "its level hardly varies, as that of music or noise")


def short_remark(length_s: float) -> Remark:
    """What is to be known of little speech."""
    return Remark("short", f"{length_s:.2f} s; so little speech tells little of an emotion")


def _pieces(given: Given, found: Scan, options: Options, lengths: Lengths) -> list[Piece]:
    """What is to be answered: speaker turns, or what is found to be speech."""
    if options.turns is not None:
        return _turn_pieces(given, found, options, lengths)
    method = ("silero" if is_installed() else "energy") if options.speech == "auto" else options.speech
    pieces: list[Piece] = []
    for track in found.tracks:
        if track.fault:
            continue
        spans = (
            SileroVad().speech(block[:, 0] for block in mono_blocks(given, [track]))
            if method == "silero"
            else speech_by_level(track.levels)
        )
        pieces += pieces_of(spans, track.levels, found.duration_s, lengths, channel=track.channel)
    return pieces


def _turn_pieces(given: Given, found: Scan, options: Options, lengths: Lengths) -> list[Piece]:
    assert options.turns is not None
    named = within(options.turns.of(Path(given.name), named=given.has_name), found.duration_s, given.name)
    tracks: dict[int | None, Track] = {track.channel: track for track in found.tracks}
    pieces: list[Piece] = []
    for turn in named:
        channel = turn.channel if options.split else None
        if channel not in tracks:
            raise AudioError(
                f"a turn of {turn.speaker!r} is on channel {turn.channel} (line {turn.line}), and "
                f"{given.name} has {len(tracks)}; give the turns of this recording, or mix the channels"
            )
        pieces += pieces_of(
            [(turn.start_s, turn.end_s)],
            tracks[channel].levels,
            found.duration_s,
            lengths,
            channel=channel,
            speaker=turn.speaker,
        )
    if all(tracks[piece.channel].fault for piece in pieces):
        raise NoSound(f"all turns of {given.name} are silent; give the turns of this recording")
    return pieces


def _cut(samples: Samples, span: Span, begin_s: float) -> Samples:
    """A stretch of samples that begin at a time."""
    start, end = (round((time_s - begin_s) * SAMPLE_RATE) for time_s in span)
    return samples[max(0, start) : end]


def _is_answered(samples: Samples) -> bool:
    """Whether there is enough sound for an answer."""
    return len(samples) >= SHORTEST_S * SAMPLE_RATE and float(np.ptp(samples)) > 0


def _batch(parts: Sequence[Samples]) -> Batch:
    waves = [torch.from_numpy(part) for part in parts]
    return Batch(
        tuple(Reference(f"window {k}") for k in range(len(waves))),
        torch.nn.utils.rnn.pad_sequence(waves, batch_first=True),
        torch.tensor([len(wave) for wave in waves]),
    )


def _words_of_pieces(chunk: Chunk, rows: Sequence[Prediction | None]) -> list[Word] | None:
    """The words of windows without times, spread over what each covers; those of two windows once."""
    if all(row is None or row.transcript is None for row in rows):
        return None
    found: list[Word] = []
    parts = [
        [] if row is None else spread(words_in(row.transcript or ""), [piece.window])
        for piece, row in zip(chunk.pieces, rows, strict=True)
    ]
    for k, (left, right) in enumerate(pairwise(chunk.pieces)):
        overlap = right.window[0], left.window[1]
        if overlap[1] > overlap[0]:
            parts[k], parts[k + 1] = joined(parts[k], parts[k + 1], overlap)
    for part in parts:
        found += part
    return found


def _words_of_phrases(chunk: Chunk, phrases: Sequence[Phrase]) -> list[Word]:
    """The words of a window's phrases, each phrase spread over the speech in its time."""
    begin_s, end_s = chunk.window
    found: list[Word] = []
    for phrase in phrases:
        start_s = begin_s if phrase.start_s is None else min(end_s, begin_s + phrase.start_s)
        stop_s = end_s if phrase.end_s is None else min(end_s, begin_s + phrase.end_s)
        spans = [
            (max(start_s, piece.start_s), min(stop_s, piece.end_s))
            for piece in chunk.pieces
            if min(stop_s, piece.end_s) > max(start_s, piece.start_s)
        ]
        found += spread(words_in(phrase.text), spans or [(start_s, max(start_s, stop_s))])
    return found


def _inside(word: Word, span: Span) -> Word:
    """The word within a segment: times are rough where only phrases have them."""
    start_s = min(max(word.start_s, span[0]), span[1])
    return Word(word.text, start_s, min(max(word.end_s, start_s), span[1]))
