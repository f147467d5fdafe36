"""Phonemes in time: reading them, cropping, tempo, and the frames they fall on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.batches.phonemes import (
    UNKNOWN,
    frame_phonemes,
    phoneme_inventory,
    read_phonemes,
    span_tensors,
)
from voxstrata.errors import CorpusError


def test_a_column_is_read_and_rare_symbols_are_unknown() -> None:
    spans = read_phonemes("0.000:_ 0.100:h 0.150:a\u026a 0.300:_")
    assert spans == ((0.0, "_"), (0.1, "h"), (0.15, "a\u026a"), (0.3, "_"))
    assert phoneme_inventory([spans, spans], at_least=2) == ("_", "a\u026a", "h")
    assert phoneme_inventory([spans], at_least=2) == ("_",)
    _, classes = span_tensors([spans, ()], ("_", "h"), [0, 0], [1, 1])
    assert classes.tolist() == [[0, 1, UNKNOWN, 0], [UNKNOWN] * 4]


@pytest.mark.parametrize("text", ["h", "0.1", "x:h", "0.1:", "0.2:a 0.1:b"])
def test_what_is_no_column_of_phonemes_is_refused(text: str) -> None:
    with pytest.raises(CorpusError, match="phonemes"):
        read_phonemes(text)


@given(
    st.lists(st.floats(0.01, 0.5), min_size=1, max_size=12), st.floats(0, 1), st.floats(0.7, 1.4),
    st.lists(st.floats(0, 4), min_size=1, max_size=20),
)  # fmt: skip
def test_frames_hear_what_was_said_at_their_time(lengths, shift_s, tempo, times) -> None:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    spans = tuple((start, str(i)) for i, start in enumerate(starts))
    names = [name for _, name in spans]
    told, classes = span_tensors([spans], names, [shift_s], [tempo])
    found = frame_phonemes(told, classes, torch.tensor(times))[0].tolist()
    for time, label in zip(times, found, strict=True):
        spoken = [i for i, start in enumerate(starts) if (start - shift_s) / tempo <= time]
        edges = [abs((start - shift_s) / tempo - time) for start in starts]
        if min(edges) > 1e-4:
            assert label == (spoken[-1] if spoken else UNKNOWN)
