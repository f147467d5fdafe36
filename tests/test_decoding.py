"""Decoding against searches written out plainly, and its guards."""

from __future__ import annotations

import itertools

import pytest
import torch

from tiny_language_models import EOS, V, gpt2, lm, prefixes, row_of, score
from voxstrata.methods.harmonifuse.lm.decoding import decode, forbid_repeats
from voxstrata.methods.harmonifuse.lm.sequences import Sequences
from voxstrata.methods.harmonifuse.options import DecodingOptions


def search(model, prefix, **options) -> list[list[int]]:
    limits = torch.arange(len(prefix.values)) % 3 + 9
    return decode(model, score, prefix, limits, eos=EOS, options=DecodingOptions(**options))


def greedy(model, prefix: Sequences, limit: int) -> list[int]:
    """One clip, no cache, no guard: the argmax again and again."""
    found: list[int] = []
    x = prefix.values
    while len(found) < limit:
        token = int(score(model(x))[0].argmax())
        if token == EOS:
            break
        found.append(token)
        x = torch.cat([x, model.embed(torch.tensor([[token]]))], dim=1)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_one_is_greedy(seed):
    model, prefix = lm(seed=seed), prefixes(seed=seed)
    found = search(model, prefix, repeats=0)
    assert found == [greedy(model, row_of(prefix, row), 9 + row % 3) for row in range(8)]
    assert len({tuple(row) for row in found}) > 3


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_a_beam_that_holds_everything_finds_the_best_text(exponent):
    model, prefix = lm(), prefixes((3, 5))
    options = DecodingOptions(beam=V**2, length_exponent=exponent, repeats=0)
    found = decode(model, score, prefix, torch.tensor([2, 2]), eos=EOS, options=options)
    for row in range(2):
        scores = {}
        for length in range(3):
            for text in itertools.product(range(1, V), repeat=length):
                x, total = row_of(prefix, row).values, 0.0
                for token in (*text, EOS):
                    total += float(score(model(x)).log_softmax(-1)[0, token])
                    x = torch.cat([x, model.embed(torch.tensor([[token]]))], dim=1)
                scores[text] = total / (length + 1) ** exponent
        assert tuple(found[row]) == max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("make", [lm, gpt2])
@pytest.mark.parametrize("beam", [1, 4])
def test_a_batch_is_decoded_as_its_rows_alone(beam, make):
    model, prefix = make(), prefixes()
    options = DecodingOptions(beam=beam, repeats=3, longest_pattern=4)
    limits = torch.arange(8) % 3 + 9
    together = decode(model, score, prefix, limits, eos=EOS, options=options)
    alone = [
        decode(model, score, row_of(prefix, row), limits[row : row + 1], eos=EOS, options=options)[0]
        for row in range(8)
    ]
    assert together == alone
    assert len({len(row) for row in together}) > 1


@pytest.mark.parametrize("make", [lm, gpt2])
@pytest.mark.parametrize("beam", [1, 3])
def test_the_cache_changes_no_token(beam, make):
    model, prefix = make(), prefixes(seed=1)
    cached = search(model, prefix, beam=beam)
    assert cached == search(model, prefix, beam=beam, cache=False)
    assert any(cached)


def test_a_wider_beam_finds_a_text_at_least_as_likely():
    model, prefix = lm(), prefixes()

    def likelihood(row: int, text: list[int]) -> float:
        x, total = row_of(prefix, row).values, 0.0
        for token in (*text, EOS):
            total += float(score(model(x)).log_softmax(-1)[0, token])
            x = torch.cat([x, model.embed(torch.tensor([[token]]))], dim=1)
        return total

    narrow = search(model, prefix, repeats=0, length_exponent=0.0)
    wide = search(model, prefix, repeats=0, beam=6, length_exponent=0.0)
    gains = [likelihood(r, wide[r]) - likelihood(r, narrow[r]) for r in range(8)]
    assert sum(gains) > 0.1 and wide != narrow


def test_a_text_has_no_more_tokens_than_its_limit():
    def endless(states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        logits = torch.zeros(len(states[0]), V)
        logits[:, 2] = 9
        return logits

    limits = torch.tensor([0, 3, 40])
    for beam in (1, 3):
        options = DecodingOptions(beam=beam, repeats=0)
        found = decode(lm(), endless, prefixes((3, 5, 2)), limits, eos=EOS, options=options)
        assert [len(row) for row in found] == [0, 3, 40] and set(found[2]) == {2}
    guarded = decode(lm(), endless, prefixes((3, 5, 2)), limits, eos=EOS, options=DecodingOptions(repeats=4))
    assert guarded[2][:4] == [2] * 4 and guarded[2][4] != 2


def test_limits_follow_the_seconds_of_speech():
    options = DecodingOptions(tokens_per_s=20, tokens_extra=3)
    assert options.limits(torch.tensor([0.0, 0.51, 10.0])).tolist() == [3, 14, 203]


@pytest.mark.parametrize(("period", "allowed"), [(1, 3), (2, 3), (4, 2)])
def test_a_pattern_stands_so_often_in_a_row_and_no_more(period, allowed):
    pattern = [1, 2, 3, 4][:period]
    text = [5] + pattern * (allowed + 1)
    for length in range(len(text)):
        steps = forbid_repeats(torch.zeros(1, V), torch.tensor([text[:length]]).long(), allowed, 4)
        forbidden = steps.isneginf().nonzero().tolist()
        assert forbidden == ([[0, text[-1]]] if length == len(text) - 1 else [])


@pytest.mark.parametrize(
    "options", [{"beam": 0}, {"tokens_per_s": 0}, {"repeats": 1}, {"longest_pattern": 0}]
)
def test_decoding_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DecodingOptions(**options)
