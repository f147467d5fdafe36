"""The language model as states, and the sequences that it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPTJConfig, GPTJModel, OPTConfig, OPTModel

from tiny_language_models import EOS, SHAPE, V, gpt2, lm, row_of, score, values
from voxstrata.errors import CheckpointError, LabelError
from voxstrata.methods.harmonifuse.lm.connector import Connector, stack_frames
from voxstrata.methods.harmonifuse.lm.decoding import decode
from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel
from voxstrata.methods.harmonifuse.lm.sequences import Sequences, join
from voxstrata.methods.harmonifuse.lm.tokenizers import CharacterTokenizer
from voxstrata.methods.harmonifuse.options import DecodingOptions, LMOptions
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


def opt() -> LanguageModel:
    """A model whose table of positions has two rows in front that no position uses."""
    config = OPTConfig(
        vocab_size=V, hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=1, num_attention_heads=2,
        ffn_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    return LanguageModel(OPTModel(config)).eval()


def gptj() -> LanguageModel:
    """A model with rotary positions from a table."""
    config = GPTJConfig(vocab_size=V, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=64)
    return LanguageModel(GPTJModel(config)).eval()


@pytest.mark.parametrize("make", [gpt2, opt, gptj])
def test_a_row_longer_than_the_table_of_positions_is_refused_in_one_line(make):
    model = make()
    assert model.most_positions == 64 and len(model(values(2, 64))) == model.num_layers
    behind = torch.full((2, 1), 64)
    for x, places in ((values(2, 65), None), (values(2, 1), behind)):
        with pytest.raises(CheckpointError) as told:
            model(x, positions=places)
        kind = type(model.model).__name__
        assert str(told.value).startswith(f"the language model {kind} has 64 positions; ")
        assert "need 65: use shorter clips, a larger connector.stack, or another" in str(told.value)
        assert "\n" not in str(told.value)
    cache = model.new_cache()
    model(values(2, 64), cache=cache)
    model.model.config.name_or_path = "openai/some"
    with pytest.raises(CheckpointError, match=r"model 'openai/some' \(\w+\) has 64 positions"):
        model(values(2, 1), cache=cache)


def test_rotary_positions_have_no_limit():
    assert lm().most_positions is None
    assert torch.equal(lm().most_tokens(torch.tensor([9000]), torch.tensor([5000])), torch.tensor([9000]))


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("beam", [1, 3])
def test_a_text_has_no_more_tokens_than_positions_are_left(beam, cache):
    def endless(states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        logits = score(states)
        logits[:, EOS] = -20
        return logits

    lengths = torch.tensor([40, 63, 58, 10])
    prefix = join([(values(4, 63), lengths)], pad_left=True)
    limits = torch.tensor([200, 200, 3, 20])
    options = DecodingOptions(beam=beam, repeats=0, cache=cache)
    found = decode(gpt2(), endless, prefix, limits, eos=EOS, options=options)
    assert [len(text) for text in found] == [24, 1, 3, 20]
    for row in range(4):
        alone = decode(gpt2(), endless, row_of(prefix, row), limits[row : row + 1], eos=EOS, options=options)
        assert alone == [found[row]]
    full = join([(values(2, 64), torch.tensor([64, 5]))], pad_left=True)
    with pytest.raises(CheckpointError, match="has 64 positions; speech, prompt and text need 65"):
        decode(gpt2(), endless, full, limits[:2], eos=EOS, options=options)


def test_a_shape_that_cannot_be_built_is_refused():
    with pytest.raises(
        ValueError, match=r"size is 12 and lm\.heads is 4; size must be a multiple of twice heads"
    ):
        LMOptions(size=12, heads=4)


def test_characters_and_back():
    tokenizer = CharacterTokenizer(Vocabulary.of(["go on"]))
    assert tokenizer.decode(tokenizer.encode(" no go ")) == "no go"
    assert tokenizer.eos not in tokenizer.encode("go on") and tokenizer.size == 5
    with pytest.raises(LabelError, match="outside the vocabulary"):
        tokenizer.encode("gone")
