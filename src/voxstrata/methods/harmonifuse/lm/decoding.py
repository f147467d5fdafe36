"""Text from a language model: greedy and beam search over a batch, token for token as one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel
from voxstrata.methods.harmonifuse.lm.sequences import Sequences
from voxstrata.methods.harmonifuse.options import DecodingOptions

#: From the L states [R, 1, D] of the newest position to token logits [R, V].
Score = Callable[[tuple[Tensor, ...]], Tensor]


def decode(
    lm: LanguageModel,
    score: Score,
    prefix: Sequences,
    limits: Tensor,
    *,
    eos: int,
    options: DecodingOptions,
) -> list[list[int]]:
    """The best text of each row, without the end token.

    A hypothesis that has ended keeps its place in the beam with its score; a row is done when its whole
    beam has ended. Nothing in a row's search depends on other rows.

    Args:
        lm: reads the prefix and each token.
        score: fusion and head for the newest position.
        prefix: [B, S, D], padded on the left.
        limits: [B] most tokens; fewer where the language model has not the positions for so many.
        eos: the end token.
        options: beam, guards, cache.

    Raises:
        CheckpointError: if the language model has no position left behind a prefix.
    """
    limits = lm.most_tokens(limits, prefix.lengths)
    rows, beam, device = len(limits), options.beam, limits.device
    reader = _Reader(lm, prefix, beam, cached=options.cache)
    logits = score(reader.start()).repeat_interleave(beam, dim=0)
    limits = limits.repeat_interleave(beam)
    tokens = torch.empty(rows * beam, 0, dtype=torch.long, device=device)
    ended = torch.zeros(rows * beam, dtype=torch.bool, device=device)
    counts = torch.zeros(rows * beam, dtype=torch.long, device=device)
    # All hypotheses of a row start the same, so only the first one counts.
    totals = torch.full((rows, beam), -torch.inf, device=device)
    totals[:, 0] = 0
    first = torch.arange(rows, device=device).unsqueeze(1) * beam
    while True:
        steps = _allowed(logits.float().log_softmax(-1), tokens, limits, ended, eos=eos, options=options)
        size = steps.shape[-1]
        candidates = (totals.unsqueeze(-1) + steps.view(rows, beam, size)).flatten(1)
        totals, chosen = candidates.topk(beam, dim=-1)
        origin, token = (first + chosen // size).flatten(), (chosen % size).flatten()
        tokens = torch.cat([tokens[origin], token.unsqueeze(1)], dim=1)
        counts = counts[origin] + ~ended[origin]
        ended = ended[origin] | (token == eos) | totals.flatten().isneginf()
        limits = limits[origin]
        if bool(ended.all()):
            break
        logits = score(reader.advance(token, origin))
    best = (totals / counts.view(rows, beam).clamp_min(1) ** options.length_exponent).argmax(-1)
    found: list[list[int]] = tokens[first.squeeze(1) + best].tolist()
    return [row[: row.index(eos)] for row in found]


def _allowed(
    steps: Tensor, tokens: Tensor, limits: Tensor, ended: Tensor, *, eos: int, options: DecodingOptions
) -> Tensor:
    """Log probabilities [R, V] of the next token, with those that guards forbid at -inf."""
    if options.repeats:
        steps = forbid_repeats(steps, tokens, options.repeats, options.longest_pattern)
    others = torch.ones(steps.shape[-1], dtype=torch.bool, device=steps.device)
    others[eos] = False
    must_end = ended | (tokens.shape[1] >= limits)
    steps = steps.masked_fill(must_end.unsqueeze(1) & others, -torch.inf)
    return steps.masked_fill(ended.unsqueeze(1) & ~others, 0.0)


def forbid_repeats(steps: Tensor, tokens: Tensor, repeats: int, longest_pattern: int) -> Tensor:
    """Forbids the token that would complete one copy of a pattern in a row more than allowed.

    Args:
        steps: [R, V] log probabilities of the next token.
        tokens: [R, U] so far.
        repeats: copies in a row that are allowed.
        longest_pattern: in tokens.

    Returns:
        [R, V], forbidden tokens at -inf.
    """
    for period in range(1, longest_pattern + 1):
        # With the next token this would be (repeats + 1) copies of `period` tokens.
        known = (repeats + 1) * period - 1
        if tokens.shape[1] < known:
            break
        tail = tokens[:, -known:]
        periodic = (tail[:, period:] == tail[:, :-period]).all(1, keepdim=True)
        following = tail[:, -period].unsqueeze(1)
        forbidden = torch.zeros_like(steps, dtype=torch.bool).scatter_(1, following, periodic)
        steps = steps.masked_fill(forbidden, -torch.inf)
    return steps


class _Reader:
    """Feeds prefix and tokens to the language model; each of the rows has `beam` hypotheses."""

    def __init__(self, lm: LanguageModel, prefix: Sequences, beam: int, *, cached: bool) -> None:
        self.lm = lm
        self.beam = beam
        self.cache = lm.new_cache() if cached else None
        self.values, self.mask, self.positions = prefix.values, prefix.mask, prefix.positions

    def start(self) -> tuple[Tensor, ...]:
        """States [B, 1, D] behind the prefix; then each row stands `beam` times."""
        states = self._read(self.values)
        if self.cache is not None:
            self.cache.batch_repeat_interleave(self.beam)
            self.values = self.values[:, :0]
        self.values, self.mask, self.positions = (
            tensor.repeat_interleave(self.beam, dim=0) for tensor in (self.values, self.mask, self.positions)
        )
        return states

    def advance(self, tokens: Tensor, origin: Tensor) -> tuple[Tensor, ...]:
        """States [R, 1, D] behind new tokens [R], each of which follows the hypothesis `origin` [R]."""
        new = self.lm.embed(tokens).unsqueeze(1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        position = self.positions[:, -1:] + 1
        if self.lm.most_positions is not None:
            # Rows that have ended are read on beside the others, and may have no position left.
            position = position.clamp_max(self.lm.most_positions - 1)
        self.positions = torch.cat([self.positions, position], dim=1)
        if self.cache is not None:
            if self.beam > 1:
                self.cache.reorder_cache(origin)
            return self._read(new)
        self.values = torch.cat([self.values[origin], new], dim=1)
        return self._read(self.values)

    def _read(self, values: Tensor) -> tuple[Tensor, ...]:
        count = values.shape[1]
        newest = torch.full((len(values), 1), count - 1, device=values.device)
        layers: tuple[Tensor, ...] = self.lm(
            values,
            mask=self.mask,
            positions=self.positions[:, -count:],
            at=newest,
            cache=self.cache,
        )
        return layers
