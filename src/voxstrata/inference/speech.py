"""Where speech is in a recording, and how it is cut into segments and windows for a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import percentile_filter, uniform_filter1d

from voxstrata.inference.scan import FRAME_S
from voxstrata.inference.words import Span

#: Speech that lasts less, and pauses that last less, are none, in seconds; so much is kept around speech.
MIN_SPEECH_S, MIN_PAUSE_S, PAD_S = 0.3, 0.3, 0.1
#: Segments are no longer, in seconds.
LONGEST_S = 10.0
#: The longest window: Whisper's decoder takes 30 seconds at once; rounding must not make them more.
WINDOW_S, _ROUNDING_S = 30.0, 0.1

#: A frame may be speech where it is above this level of full scale, in dB.
_SILENT_DB = -70.0
#: What is so far below the loudest frames is none, in dB.
_BELOW_LOUDEST_DB = 35.0
#: Between the noise floor and the loudest frames, the threshold lies at this share.
_SHARE = 0.2
#: The floor is the quietest tenth of the frames in so many seconds, at most so far below the loudest, in dB.
_FLOOR_S, _FLOOR_PERCENT, _SPEECH_RANGE_DB = 30.0, 10, 15.0
_LOUDEST_PERCENT = 95

#: Level hardly varies, as that of music or noise, where fewer frames than this share are quiet ones.
FEWEST_QUIET = 0.1
#: Below this length that is not looked at, in seconds.
LONG_ENOUGH_S = 4.0


@dataclass(frozen=True)
class Lengths:
    """How long segments and windows may be, in seconds.

    Args:
        window_s: what the models take at once.
    """

    window_s: float = WINDOW_S

    @property
    def longest_window_s(self) -> float:
        """Of a window."""
        return min(self.window_s, WINDOW_S) - _ROUNDING_S

    @property
    def longest_s(self) -> float:
        """Of a segment: speech without a pause is cut at its quietest place."""
        return min(LONGEST_S, self.longest_window_s / 1.2)

    @property
    def earliest_cut_s(self) -> float:
        """Of a segment that is followed by a cut."""
        return 0.4 * self.longest_s

    @property
    def overlap_s(self) -> float:
        """What a window has of the speech around a cut, on either side."""
        return 0.1 * self.longest_s


#: Those of models that take 30 seconds.
LENGTHS = Lengths()


@dataclass(frozen=True)
class Piece:
    """What becomes a segment.

    Args:
        start_s: of the segment.
        end_s: likewise.
        window: what a model listens to for it: the same, and where speech was cut what lies around the cut.
        channel: of the track, see `scan.Track`.
        speaker: whose turn it is.
    """

    start_s: float
    end_s: float
    window: Span
    channel: int | None = None
    speaker: str | None = None

    @property
    def span(self) -> Span:
        """Start and end."""
        return self.start_s, self.end_s


@dataclass
class Chunk:
    """Pieces of one speaker, close enough to be transcribed together.

    Args:
        pieces: in order.
    """

    pieces: list[Piece] = field(default_factory=list)

    @property
    def window(self) -> Span:
        """What a transcriber listens to."""
        return self.pieces[0].window[0], max(piece.window[1] for piece in self.pieces)


def speech_by_level(levels: NDArray[np.float32]) -> list[Span]:
    """Stretches of speech by level alone, in seconds.

    The threshold lies between the noise floor, which is followed over time, and the level of the loudest
    frames. Where both are too close to part speech from noise, all is taken.

    Args:
        levels: [F] power of frames of `FRAME_S` seconds, in dB of full scale.
    """
    if not len(levels) or levels.max() < _SILENT_DB:
        return []
    smooth = 10 * np.log10(uniform_filter1d(10 ** (levels.astype(np.float64) / 10), 3, mode="nearest"))
    loudest = float(np.percentile(levels[levels >= _SILENT_DB], _LOUDEST_PERCENT))
    # In steps of half a second: a percentile over each frame's neighbourhood would take too long.
    step = round(0.5 / FRAME_S)
    coarse = smooth[::step]
    size = max(1, min(round(_FLOOR_S / (step * FRAME_S)), len(coarse)))
    floor = np.repeat(percentile_filter(coarse, _FLOOR_PERCENT, size, mode="nearest"), step)[: len(smooth)]
    floor = np.minimum(floor, loudest - _SPEECH_RANGE_DB)
    threshold = np.maximum(floor + _SHARE * (loudest - floor), loudest - _BELOW_LOUDEST_DB)
    return stretches((smooth >= threshold) & (smooth >= _SILENT_DB), FRAME_S)


def stretches(speech: NDArray[np.bool_], frame_s: float) -> list[Span]:
    """Frames that are speech as stretches in seconds: pauses too short are bridged, then bursts left out.

    >>> stretches(np.repeat([False, True, False, True, False], [10, 10, 2, 10, 10]), 0.1)
    [(0.9, 3.3)]
    """
    edges = np.flatnonzero(np.diff(speech.astype(np.int8), prepend=0, append=0)) * frame_s
    bridged: list[list[float]] = []
    for start_s, end_s in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if bridged and start_s - bridged[-1][1] < MIN_PAUSE_S - 1e-9:
            bridged[-1][1] = end_s
        else:
            bridged.append([start_s, end_s])
    length_s = len(speech) * frame_s
    return [
        (round(max(0.0, start_s - PAD_S), 6), round(min(length_s, end_s + PAD_S), 6))
        for start_s, end_s in bridged
        if end_s - start_s >= MIN_SPEECH_S - 1e-9
    ]


def pieces_of(
    spans: Iterable[Span],
    levels: NDArray[np.float32],
    duration_s: float,
    lengths: Lengths = LENGTHS,
    *,
    channel: int | None = None,
    speaker: str | None = None,
) -> list[Piece]:
    """Stretches of speech, cut where they are too long.

    Args:
        spans: in order.
        levels: [F] of the track, see `speech_by_level`.
        duration_s: of the recording.
        lengths: of segments and windows.
        channel: of the track.
        speaker: of the pieces.
    """
    found = []
    for start_s, end_s in spans:
        end_s = min(end_s, duration_s)
        cuts = [start_s]
        while end_s - cuts[-1] > lengths.longest_s:
            cuts.append(_quietest(levels, cuts[-1], end_s, lengths))
        cuts.append(end_s)
        for left_s, right_s in pairwise(cuts):
            window = (max(start_s, left_s - lengths.overlap_s), min(end_s, right_s + lengths.overlap_s))
            found.append(Piece(left_s, right_s, window, channel, speaker))
    return found


def _quietest(levels: NDArray[np.float32], start_s: float, end_s: float, lengths: Lengths) -> float:
    """The middle of the quietest tenth of a second in which a segment may end; a rest is no crumb."""
    last_s = min(start_s + lengths.longest_s, end_s - 0.5 * lengths.earliest_cut_s)
    first, last = round((start_s + lengths.earliest_cut_s) / FRAME_S), round(last_s / FRAME_S)
    part = levels[first:last].astype(np.float64)
    if not len(part):
        return last_s
    return round((first + int(uniform_filter1d(part, 5, mode="nearest").argmin()) + 0.5) * FRAME_S, 6)


def chunks_of(pieces: Sequence[Piece], lengths: Lengths = LENGTHS) -> list[Chunk]:
    """Neighbouring pieces of one track and speaker together, as many as fit a window for words.

    Args:
        pieces: of all tracks and speakers.
        lengths: of windows.

    Returns:
        In the order in which their windows start.
    """
    chunks: list[Chunk] = []
    last: dict[int | None, Chunk] = {}
    for piece in sorted(pieces, key=lambda piece: piece.start_s):
        chunk = last.get(piece.channel)
        fits = (
            chunk is not None
            and chunk.pieces[-1].speaker == piece.speaker
            and max(piece.window[1], chunk.window[1]) - chunk.window[0] <= lengths.longest_window_s
        )
        if chunk is None or not fits:
            chunk = last[piece.channel] = Chunk()
            chunks.append(chunk)
        chunk.pieces.append(piece)
    return sorted(chunks, key=lambda chunk: chunk.window[0])


def hardly_varies(levels: NDArray[np.float32], start_s: float, end_s: float) -> bool:
    """Whether the level of a stretch is as even as that of music or noise.

    Speech has syllables and short pauses: many of its frames have less than half of the mean amplitude
    (E. Scheirer and M. Slaney, ICASSP 1997, "percentage of low-energy frames").
    """
    part = levels[round(start_s / FRAME_S) : round(end_s / FRAME_S)].astype(np.float64)
    if end_s - start_s < LONG_ENOUGH_S or not len(part):
        return False
    amplitudes = 10 ** (part / 20)
    return float((amplitudes < 0.5 * amplitudes.mean()).mean()) < FEWEST_QUIET
