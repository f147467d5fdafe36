"""Whisper's spectrogram is that of transformers' own extractor, for clips alone and in batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from voxstrata.backbone.families.whisper import log_mel
from whisper_by_hand import SAMPLE_RATE, extracted, recorded

LONGEST = 30 * SAMPLE_RATE


def sounds(kind: str, count: int) -> Tensor:
    time = torch.arange(count) / SAMPLE_RATE
    noise = torch.randn(count, generator=torch.Generator().manual_seed(count))
    made = {
        "noise": 0.1 * noise,
        "quiet": 1e-4 * noise,
        "tone": 0.5 * torch.sin(6.2832 * 440 * time),
        "click": torch.where(torch.arange(count) == count // 2, 0.9, 0.0),
        "silence": torch.zeros(count),
    }
    return made[kind]


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("kind", ["noise", "quiet", "tone", "click", "silence"])
@pytest.mark.parametrize("count", [201, 400, 16_000, 23_457])
def test_the_spectrogram_is_that_of_transformers(kind: str, count: int, bins: int) -> None:
    clip = sounds(kind, count)
    expected = extracted(clip, bins)
    found = log_mel(clip[None], [count], bins)
    assert found.shape == expected.shape == (1, bins, count // 160)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    padded = extracted(clip, bins, "max_length", seconds=2)
    room = torch.zeros(1, 2 * SAMPLE_RATE)
    room[0, :count] = clip
    torch.testing.assert_close(log_mel(room, [room.shape[1]], bins), padded, atol=1e-5, rtol=0)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(201, 4000), min_size=2, max_size=4),
    levels=st.lists(st.floats(-5, 0), min_size=4, max_size=4),
    beyond=st.floats(-1, 1),
    click=st.sampled_from([0, 30]),
    bins=st.sampled_from([80, 128]),
)
def test_in_a_batch_each_clip_has_its_own_maximum_and_ends(
    lengths: list[int], levels: list[float], beyond: float, click: int, bins: int
) -> None:
    """Transformers drops the last column, so what is loudest there has no part in the maximum."""
    waveforms = torch.full((len(lengths), max(lengths)), beyond)
    for row, (count, level) in enumerate(zip(lengths, levels, strict=False)):
        waveforms[row, :count] = 10**level * sounds("noise", count)
        waveforms[row, count - 1] += 10**level * click
    found = log_mel(waveforms, lengths, bins)
    assert found.shape == (len(lengths), bins, max(lengths) // 160) and found.isfinite().all()
    for row, count in enumerate(lengths):
        expected = extracted(waveforms[row, :count], bins)[0]
        torch.testing.assert_close(found[row, :, : count // 160], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bins", [80, 128])
def test_spectrograms_of_recordings_are_those_of_transformers(real_data: Path, bins: int) -> None:
    recordings = recorded(real_data)
    lengths = [len(clip) for clip in recordings]
    assert len(lengths) > 2
    batch = torch.nn.utils.rnn.pad_sequence(recordings, batch_first=True)
    together = log_mel(batch, lengths, bins)
    for row, clip in enumerate(recordings):
        expected = extracted(clip, bins)
        columns = expected.shape[-1]
        torch.testing.assert_close(log_mel(clip[None], [len(clip)], bins), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(together[row, :, :columns], expected[0], atol=1e-5, rtol=0)
        padded = log_mel(torch.nn.functional.pad(clip[None], (0, LONGEST - len(clip))), [LONGEST], bins)
        torch.testing.assert_close(padded, extracted(clip, bins, "max_length"), atol=1e-5, rtol=0)
