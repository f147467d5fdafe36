"""The fast attention against transformers' own, in whole encoders, over the length of clips."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from voxstrata.backbone.attention import Attention
from voxstrata.backbone.encoder import build_backbone
from voxstrata.benchmarks.measure import Progress, Step, interleaved, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.benchmarks.shapes import Shape, wavlm_config

SAMPLE_RATE = 16_000
COMPARES = {
    "fast": "gated position bias piece by piece",
    "reference": "transformers' own WavLM attention",
}


@dataclass(frozen=True)
class AttentionOptions:
    """What is measured.

    Args:
        shape: "base" or "large".
        clips_s: lengths of clips.
        batch_size: clips in a batch, all of one length.
        repeats: timed runs of each.
        dropout: train mode with the dropout of the published configurations; else eval mode.
        threads: of torch; None leaves its choice.
    """

    shape: Shape = "base"
    clips_s: tuple[float, ...] = (2, 5, 10, 20)
    batch_size: int = 4
    repeats: int = 5
    dropout: bool = False
    threads: int | None = None

    def quick(self) -> AttentionOptions:
        """The same, small enough for a test: its figures say nothing."""
        return replace(self, shape="tiny", clips_s=(0.5, 1), batch_size=2, repeats=2)


@dataclass(frozen=True)
class _Case:
    clip_s: float
    backward: bool

    def __str__(self) -> str:
        return f"{self.clip_s:g} s {_pass(self)}"


def run(options: AttentionOptions, progress: Progress | None = None) -> BenchmarkResult:
    """Measures encoders with random weights: forward without gradients, and forward with backward.

    Gradients of the weights are resident before a run, so that memory is that of the computation alone.

    Args:
        options: what is measured.
        progress: called before each run.
    """
    wavlm_config(options.shape)
    stated = machine()
    cases = [_Case(clip_s, backward) for clip_s in options.clips_s for backward in (False, True)]
    found = interleaved(
        {attention: partial(_prepare, attention, options) for attention in get_args(Attention)},
        cases,
        repeats=options.repeats,
        threads=options.threads,
        progress=progress,
    )
    return BenchmarkResult(
        name="attention",
        compares=COMPARES,
        reference="reference",
        settings=asdict(options),
        machine=stated,
        rows=tuple(Row({"clip_s": case.clip_s, "pass": _pass(case)}, found[case]) for case in cases),
    )


def _pass(case: _Case) -> str:
    return "forward+backward" if case.backward else "forward"


def _prepare(attention: Attention, options: AttentionOptions) -> Step:
    encoder = build_backbone(wavlm_config(options.shape), seed=0, attention=attention)
    encoder.train(options.dropout)
    batches: dict[float, tuple[Tensor, Tensor]] = {}

    def step(case: _Case) -> None:
        if case.clip_s not in batches:
            samples = int(case.clip_s * SAMPLE_RATE)
            generator = torch.Generator().manual_seed(samples)
            waveforms = torch.randn(options.batch_size, samples, generator=generator)
            batches[case.clip_s] = waveforms, torch.full((options.batch_size,), samples)
        with torch.set_grad_enabled(case.backward):
            states = encoder(*batches[case.clip_s])
        if case.backward:
            encoder.zero_grad(set_to_none=False)
            torch.autograd.backward(torch.stack([layer.mean() for layer in states.layers]).sum())

    return step
