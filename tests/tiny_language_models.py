"""Tiny language models with random weights, inputs for them, and a head."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2Model

from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel, small_lm
from voxstrata.methods.harmonifuse.lm.sequences import Sequences, join
from voxstrata.methods.harmonifuse.options import LMOptions

SHAPE = LMOptions(layers=3, size=16, heads=2, feed_forward=32)
V, EOS = 6, 0


def lm(norm: str = "plain", *, seed: int = 0) -> LanguageModel:
    """A small model in eval mode whose weights are large enough to tell positions apart."""
    model = small_lm(SHAPE, V, seed=seed, norm=norm).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter *= 8
    return model


def gpt2() -> LanguageModel:
    """A model whose positions are absolute, so that a wrong count of them is seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=V, n_embd=16, n_layer=3, n_head=2, n_positions=64, initializer_range=0.4
        )
        return LanguageModel(GPT2Model(config), norm="model").eval().requires_grad_(False)


def values(rows: int, length: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, length, SHAPE.size, generator=torch.Generator().manual_seed(seed))


def score(states: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A fixed random head on the mean of the layers; the end token is not too likely."""
    weight = 0.5 * torch.randn(V, SHAPE.size, generator=torch.Generator().manual_seed(9))
    bias = torch.tensor([-0.5, *[0.0] * (V - 1)])
    return torch.stack(states).mean(0)[:, -1] @ weight.T + bias


def prefixes(lengths=(3, 7, 5, 1, 6, 2, 4, 7), *, seed: int = 0) -> Sequences:
    return join([(values(len(lengths), 7, seed=seed), torch.tensor(lengths))], pad_left=True)


def row_of(prefix: Sequences, row: int) -> Sequences:
    kept = prefix.mask[row]
    return Sequences(prefix.values[row : row + 1, kept], prefix.mask[row : row + 1, kept])
