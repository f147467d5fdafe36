"""Stretches of a recording as samples at 16 kHz, read in one pass: only what is still asked for is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE
from voxstrata.audio.blocks import unclicked
from voxstrata.inference.given import Given
from voxstrata.inference.scan import Track, resampled_blocks
from voxstrata.inference.words import Span

Samples = NDArray[np.float32]


def mono_blocks(given: Given, tracks: Sequence[Track]) -> Iterator[Samples]:
    """The tracks of a recording at 16 kHz, [n, tracks] at a time."""
    with given.blocks() as sound:
        clean = (unclicked(block, sound.sample_rate) for block in sound.blocks)
        columns = (np.column_stack([track.mono(block) for track in tracks]) for block in clean)
        for block, _ in resampled_blocks(columns, sound.sample_rate, len(tracks)):
            yield block


def windows(given: Given, tracks: Sequence[Track], asked: Sequence[tuple[Span, int]]) -> Iterator[Samples]:
    """The samples [n] of each stretch.

    Args:
        given: the recording.
        tracks: of it.
        asked: start and end in seconds, and which track; by start.
    """
    blocks = mono_blocks(given, tracks)
    held = np.zeros((0, len(tracks)), np.float32)
    begin = 0
    for (start_s, end_s), track in asked:
        start, end = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
        while begin + len(held) < end:
            block = next(blocks, None)
            if block is None:
                break
            if begin + len(held) < start:
                # What lies before the stretch is asked for no more.
                gone = min(start - begin, len(held))
                held, begin = held[gone:], begin + gone
            held = np.concatenate([held, block])
        gone = min(max(0, start - begin), len(held))
        held, begin = held[gone:], begin + gone
        yield np.ascontiguousarray(held[max(0, start - begin) : max(0, end - begin), track])
