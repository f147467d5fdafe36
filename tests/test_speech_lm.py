"""The language model as states, and the sequences that it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiny_language_models import SHAPE, gpt2, lm, values
from voxstrata.errors import LabelError, RecipeError
from voxstrata.speech_lm.connector import Connector, stack_frames
from voxstrata.speech_lm.language_model import SmallLM
from voxstrata.speech_lm.sequences import Sequences, join
from voxstrata.speech_lm.tokenizers import CharacterTokenizer
from voxstrata.vocabulary import Vocabulary


def test_frames_are_stacked_and_clips_end_in_zeros():
    frames = torch.arange(1.0, 15.0).view(2, 7, 1)
    stacked, counts = stack_frames(frames, torch.tensor([7, 4]), 3)
    assert stacked.tolist() == [[[1, 2, 3], [4, 5, 6], [7, 0, 0]], [[8, 9, 10], [11, 0, 0], [0, 0, 0]]]
    assert counts.tolist() == [3, 2]


def test_the_connector_does_not_see_what_stands_behind_a_clip():
    torch.manual_seed(0)
    connector = Connector(4, 6, width=8, stack=5)
    frames = torch.randn(2, 13, 4)
    short, counts = connector(frames[1:, :6], torch.tensor([6]))
    both, all_counts = connector(frames, torch.tensor([13, 6]))
    assert both.shape == (2, 3, 6) and all_counts.tolist() == [3, 2] and counts.tolist() == [2]
    torch.testing.assert_close(both[1, :2], short[0])


@pytest.mark.parametrize("pad_left", [True, False])
def test_parts_are_joined_without_gaps(pad_left):
    lengths = [torch.tensor([3, 1]), torch.tensor([1, 1]), torch.tensor([0, 4])]
    parts = [(values(2, int(n.max()), seed=i), n) for i, n in enumerate(lengths)]
    found = join(parts, pad_left=pad_left)
    assert found.values.shape == (2, 6, SHAPE.size) and found.lengths.tolist() == [4, 6]
    for row in range(2):
        expected = torch.cat([part[row, : n[row]] for part, n in parts])
        assert torch.equal(found.values[row, found.mask[row]], expected)
        assert not found.values[row, ~found.mask[row]].any()
    assert found.mask[0].tolist() == ([False] * 2 + [True] * 4 if pad_left else [True] * 4 + [False] * 2)
    assert found.positions[0, found.mask[0]].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("norm", ["plain", "model", "none"])
def test_the_states_are_those_of_the_layers_run_one_by_one(norm):
    model, x = lm(norm), values(2, 5)
    found = model(x)
    llama, state, expected = model.model, x, []
    positions = llama.rotary_emb(x, torch.arange(5).unsqueeze(0))
    mask = torch.full((1, 1, 5, 5), -torch.inf).triu(1)
    for layer in llama.layers:
        state = layer(state, attention_mask=mask, position_embeddings=positions)
        expected.append(state)
    last = llama.norm(expected[-1])
    if norm == "model":
        expected = [llama.norm(state) for state in expected]
    expected[-1] = last
    if norm == "plain":
        expected = [nn.LayerNorm(SHAPE.size, elementwise_affine=False)(state) for state in expected]
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    at = torch.tensor([[4, 0], [1, 1]])
    picked = model(x, at=at)
    for one, other in zip(picked, found, strict=True):
        torch.testing.assert_close(one[1, 0], other[1, 1])
        torch.testing.assert_close(one[0], other[0, [4, 0]])


def test_later_positions_change_nothing_before_them():
    model, x = lm(), values(2, 8)
    changed = x.clone()
    changed[:, 5:] += 3
    for one, other in zip(model(x), model(changed), strict=True):
        torch.testing.assert_close(one[:, :5], other[:, :5], atol=1e-6, rtol=0)
        assert (one[:, 5:] - other[:, 5:]).abs().max() > 0.1


@pytest.mark.parametrize("make", [lm, gpt2])
@pytest.mark.parametrize(("before", "behind"), [(4, 0), (0, 4), (3, 2)])
def test_padding_on_either_side_changes_nothing(before, behind, make):
    model, x = make(), values(3, 6)
    expected = model(x)
    noise = 5 * values(3, before + behind, seed=1)
    padded = torch.cat([noise[:, :before], x, noise[:, before:]], dim=1)
    mask = torch.ones(3, padded.shape[1], dtype=torch.bool)
    mask[:, :before] = False
    mask[:, before + 6 :] = False
    found = model(padded, mask=mask, positions=Sequences(padded, mask).positions)
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one[:, before : before + 6], other, atol=1e-5, rtol=0)
    if not before:
        for one, other in zip(model(padded), expected, strict=True):
            torch.testing.assert_close(one[:, :6], other, atol=1e-5, rtol=0)


def test_a_shape_that_cannot_be_built_is_refused():
    with pytest.raises(RecipeError, match="multiple of twice the heads"):
        SmallLM(size=12, heads=4)


def test_characters_and_back():
    tokenizer = CharacterTokenizer(Vocabulary.of(["go on"]))
    assert tokenizer.decode(tokenizer.encode(" no go ")) == "no go"
    assert tokenizer.eos not in tokenizer.encode("go on") and tokenizer.size == 5
    with pytest.raises(LabelError, match="outside the vocabulary"):
        tokenizer.encode("gone")
