"""Layer sum, emotion head and CTC head against plain tensor formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import PooledLinearHead, masked_mean
from voxstrata.heads.layer_sum import LayerSum
from voxstrata.vocabulary import Vocabulary


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("normalize", [False, True])
def test_layer_sum_is_a_weighted_stack(normalize):
    layers = [noise(2, 5, 8, seed=i) * (i + 1) for i in range(3)]
    module = LayerSum(3, normalize=normalize)
    module.logits.data = torch.tensor([0.5, -1.0, 2.0])
    stack = torch.stack(layers)
    if normalize:
        stack = (stack - stack.mean(-1, keepdim=True)) / (
            stack.var(-1, keepdim=True, correction=0) + 1e-5
        ).sqrt()
    expected = torch.einsum("l,lbtd->btd", torch.softmax(module.logits, 0), stack)
    torch.testing.assert_close(module(layers), expected)


def test_layer_sum_starts_with_equal_weights_that_all_learn():
    module = LayerSum(4)
    torch.testing.assert_close(module.weights, torch.full((4,), 0.25))
    module([noise(1, 3, 2, seed=i) for i in range(4)])[0, 0, 0].backward()
    assert (module.logits.grad != 0).all()


@pytest.mark.parametrize("count", [2, 4])
def test_layer_sum_refuses_another_number_of_states(count):
    with pytest.raises(ValueError, match=f"{count} states for 3"):
        LayerSum(3)([noise(1, 2, 2)] * count)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_masked_mean_is_the_mean_over_valid_frames(lengths):
    frames = noise(len(lengths), 9, 3)
    mask = torch.arange(9) < torch.tensor(lengths).unsqueeze(1)
    expected = torch.stack([frames[row, :n].mean(0) for row, n in enumerate(lengths)])
    torch.testing.assert_close(masked_mean(frames, mask), expected)


def test_masked_mean_sees_nothing_of_the_padding():
    frames, mask = noise(1, 6, 2), torch.arange(6).unsqueeze(0) < 4
    spoiled = frames.clone()
    spoiled[:, 4:] = torch.nan
    torch.testing.assert_close(masked_mean(spoiled, mask), masked_mean(frames, mask))


def test_masked_mean_of_bfloat16_frames_counts_exactly():
    frames = torch.ones(1, 749, 2, dtype=torch.bfloat16)  # 749 is no bfloat16 number
    assert (masked_mean(frames, torch.ones(1, 749, dtype=torch.bool)) == 1).all()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_emotion_head_does_not_depend_on_padding_or_neighbours(batch_norm):
    torch.manual_seed(0)
    head = PooledLinearHead(8, 3, width=4, batch_norm=batch_norm).eval()
    frames = noise(2, 7, 8)
    both = head(frames, torch.arange(7) < torch.tensor([[7], [4]]))
    alone = head(frames[1:, :4], torch.ones(1, 4, dtype=torch.bool))
    assert both.shape == (2, 3)
    torch.testing.assert_close(both[1:], alone)


def test_emotion_head_is_linear_pool_linear():
    torch.manual_seed(1)
    head = PooledLinearHead(8, 3, width=4)
    frames = noise(1, 5, 8)
    hidden = (frames[0] @ head.projector.weight.T + head.projector.bias).mean(0)
    expected = head.classifier.weight @ hidden + head.classifier.bias
    torch.testing.assert_close(head(frames, torch.ones(1, 5, dtype=torch.bool))[0], expected)


def test_a_last_batch_of_one_clip_trains_with_batch_norm():
    head = PooledLinearHead(8, 3, width=4, batch_norm=True).train()
    logits = head(noise(1, 5, 8), torch.ones(1, 5, dtype=torch.bool))
    logits.sum().backward()
    assert logits.isfinite().all() and head.projector.weight.grad is not None


def test_ctc_head_reads_normed_frames():
    torch.manual_seed(2)
    head = CTCHead(6, Vocabulary(("a", "b")))
    frames = 50 * noise(2, 4, 6) + 7
    expected = F.linear(F.layer_norm(frames, (6,)), head.lm_head.weight, head.lm_head.bias)
    torch.testing.assert_close(head(frames), expected)


def test_ctc_head_transcribes_greedily_and_only_valid_frames():
    head = CTCHead(6, Vocabulary(("a", "b")))
    paths = torch.tensor([[1, 1, 0, 1, 2, 2], [2, 0, 0, 1, 1, 1]])
    assert head.transcribe(F.one_hot(paths, 3).float(), torch.tensor([6, 3])) == ["aab", "b"]
