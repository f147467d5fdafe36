"""Layer sum, emotion head and CTC head against plain tensor formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from voxstrata.config.head import HeadOptions
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import AttentiveHead, ConvolutionHead, PooledLinearHead, clip_head, masked_mean
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


LENGTHS = (3, 9, 1)
MASK = torch.arange(9) < torch.tensor(LENGTHS).unsqueeze(1)


@pytest.mark.parametrize(("form", "parameters"), [("a", 264_456), ("b", 461_832), ("c", 3_159_048)])
def test_heads_over_wavlm_large_have_the_published_sizes(form, parameters):
    head = clip_head(1024, 8, HeadOptions(form=form))
    assert sum(p.numel() for p in head.parameters()) == parameters


def test_options_of_a_head_reach_it():
    for form, kind, width, dropout in (
        ("a", PooledLinearHead, 256, 0.0),
        ("b", ConvolutionHead, 256, 0.1),
        ("c", AttentiveHead, 1024, 0.5),
    ):
        default, set_to = (
            clip_head(8, 3, HeadOptions(form=form, **given)) for given in ({}, {"width": 7, "dropout": 0.3})
        )
        assert type(default) is type(set_to) is kind
        assert (default.classifier.in_features, default.dropout.p) == (width, dropout)
        assert (set_to.classifier.in_features, set_to.dropout.p) == (7, 0.3)
    with pytest.raises(ValueError, match="batch_norm is true and form is c, and only form a has it"):
        HeadOptions(form="c", batch_norm=True)


def test_head_b_is_pointwise_convolutions_and_a_mean():
    head = ConvolutionHead(8, 3, width=5).eval()
    plain = torch.nn.Sequential()
    for linear in head.convolutions:
        convolution = torch.nn.Conv1d(linear.in_features, 5, kernel_size=1)
        convolution.weight.data, convolution.bias.data = linear.weight.data.unsqueeze(-1), linear.bias.data
        plain.extend([convolution, torch.nn.ReLU()])
    frames = noise(3, 9, 8)
    for row, length in enumerate(LENGTHS):
        pooled = plain(frames[row : row + 1, :length].transpose(1, 2)).mean(-1)
        expected = head.classifier(torch.relu(head.projector(pooled)))
        torch.testing.assert_close(head(frames, MASK)[row : row + 1], expected)


def test_head_c_pools_weighted_mean_and_deviation():
    head = AttentiveHead(8, 3, width=5).eval()
    frames = noise(3, 9, 8)
    frames[0, 5] = float("inf")
    for row, length in enumerate(LENGTHS):
        scores = [head.attention(torch.tanh(head.scorer(f))).item() for f in frames[row, :length]]
        weights = torch.softmax(torch.tensor(scores), 0).double()
        valid = frames[row, :length].double()
        mean = (weights[:, None] * valid).sum(0)
        deviation = (weights[:, None] * (valid - mean) ** 2).sum(0).clamp_min(1e-5).sqrt()
        pooled = torch.cat([mean, deviation]).float()
        expected = head.classifier(torch.relu(head.norm(head.projector(pooled))))
        torch.testing.assert_close(head(frames, MASK)[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["a", "b", "c"])
def test_only_a_head_that_pools_first_answers_from_the_mean_frame(form):
    head = clip_head(8, 3, HeadOptions(form=form, width=6)).eval()
    frames = noise(3, 9, 8)
    pooled = masked_mean(frames, MASK).unsqueeze(1)
    same = torch.allclose(head(frames, MASK), head(pooled, torch.ones(3, 1, dtype=torch.bool)), atol=1e-5)
    assert same == head.pools_first == (form == "a")


@pytest.mark.parametrize("form", ["a", "b", "c"])
def test_every_head_passes_gradients_to_all_it_has(form):
    head = clip_head(8, 3, HeadOptions(form=form, width=6, dropout=0.0))
    frames = noise(3, 9, 8).requires_grad_()
    head(frames, MASK).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert frames.grad[~MASK].eq(0).all() and frames.grad.isfinite().all()
