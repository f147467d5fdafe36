"""How fast this machine's CPU multiplies matrices: the bound of what it trains in."""

from __future__ import annotations

from time import perf_counter

import torch

#: Rows and columns: of the size of an encoder's own products, frames of a batch and its width.
_ROWS, _WIDTH, _WIDER = 1024, 512, 2048
_LEAST_RUNS = 3


def measured_tflops(seconds: float = 0.5) -> float:
    """The fastest of some float32 products [1024, 512] x [512, 2048], in TFLOP/s.

    Nothing that an encoder does is faster, so that work divided by it is the least time that training takes.

    Args:
        seconds: how long to measure, about.
    """
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(_ROWS, _WIDTH, generator=generator)
    other = torch.randn(_WIDTH, _WIDER, generator=generator)
    fastest, end, runs = float("inf"), perf_counter() + seconds, 0
    while runs < _LEAST_RUNS or perf_counter() < end:
        began = perf_counter()
        torch.mm(one, other)
        fastest = min(fastest, perf_counter() - began)
        runs += 1
    return 2.0 * _ROWS * _WIDTH * _WIDER / max(fastest, 1e-9) / 1e12
