"""One lambda step: forward, loss over all layers and backward to all coefficients, beside other ways."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from voxstrata.backbone.attention import Attention
from voxstrata.backbone.encoder import SpeechEncoder, States, build_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.benchmarks.measure import Progress, Step, interleaved, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.benchmarks.shapes import Shape, wavlm_config
from voxstrata.errors import VoxstrataError
from voxstrata.merging.front import FRONT_END
from voxstrata.merging.merged import MergedBackbone
from voxstrata.merging.task_vector import TaskVector

SAMPLE_RATE = 16_000
FUSION_BENCH = "fusion_bench"
COMPARES = {
    "functional_call": "all tensors merged before the forward, autograd keeps them and their gradients",
    "lean": "this package: merged layer by layer, again in the backward",
    "checkpointed": "lean, and activations are computed again too",
    FUSION_BENCH: "fusion_bench's LayerWiseMergedModel, a coefficient per tensor",
}
Vectors = Literal["all groups", "front end zero", "front end zero and kept"]


@dataclass(frozen=True)
class LambdaStepOptions:
    """What is measured.

    Args:
        shape: "base" or "large".
        vectors: K task vectors.
        vector_dtype: in which they are held: "float32", "bfloat16" or "float16".
        batch_size: clips in a batch.
        clip_s: length of each clip.
        cases: task vectors in all groups; zero in the convolutional front end; the same with the front end's
            output kept from an earlier step.
        ways: of `COMPARES`, the first is compared with; None for all that are installed.
        attention: of the encoder, in all ways.
        repeats: timed runs of each.
        threads: of torch; None leaves its choice.
    """

    shape: Shape = "large"
    vectors: int = 2
    vector_dtype: str = "float32"
    batch_size: int = 4
    clip_s: float = 3.0
    cases: tuple[Vectors, ...] = get_args(Vectors)
    ways: tuple[str, ...] | None = None
    attention: Attention = "fast"
    repeats: int = 5
    threads: int | None = None

    def quick(self) -> LambdaStepOptions:
        """The same, small enough for a test: its figures say nothing."""
        return replace(self, shape="tiny", clip_s=0.5, batch_size=2, repeats=2)


def run(options: LambdaStepOptions, progress: Progress | None = None) -> BenchmarkResult:
    """Measures a step in each way; every way holds base and vectors in a process of its own.

    Args:
        options: what is measured.
        progress: called before each run.

    Raises:
        VoxstrataError: if an option is none of those allowed, or memory is out.
    """
    wavlm_config(options.shape)
    ways = options.ways or tuple(way for way in COMPARES if way != FUSION_BENCH or _installed(FUSION_BENCH))
    if unknown := {*ways} - {*COMPARES}:
        raise VoxstrataError(f"unknown ways {sorted(unknown)}; allowed are {', '.join(COMPARES)}")
    if wrong := {*options.cases} - {*get_args(Vectors)}:
        raise VoxstrataError(f"unknown cases {sorted(wrong)}; allowed are {', '.join(get_args(Vectors))}")
    told = machine()
    found = interleaved(
        {way: partial(_prepare, way, options) for way in ways},
        options.cases,
        repeats=options.repeats,
        threads=options.threads,
        progress=progress,
    )
    return BenchmarkResult(
        name="lambda-step",
        compares={way: COMPARES[way] for way in ways},
        reference=ways[0],
        settings=asdict(options),
        machine=told,
        rows=tuple(Row({"vectors": case}, found[case]) for case in options.cases),
    )


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _prepare(way: str, options: LambdaStepOptions) -> Step:
    base = build_backbone(wavlm_config(options.shape), seed=0, attention=options.attention)
    base.requires_grad_(False).eval()
    samples = int(options.clip_s * SAMPLE_RATE)
    waveforms = torch.randn(options.batch_size, samples, generator=torch.Generator().manual_seed(1))
    lengths = torch.full((options.batch_size,), samples)
    encode_by_case: dict[str, Callable[[], States]] = {}
    changes = [_change(base, options, k) for k in range(options.vectors)]
    found = fingerprint(base.weights())

    def encoder(case: Vectors) -> Callable[[], States]:
        if way == FUSION_BENCH:
            return partial(_fusion_bench(base, changes), waveforms, lengths)
        vectors = {
            f"vector {k}": TaskVector(_of_case(c, case), found, "random") for k, c in enumerate(changes)
        }
        merged = MergedBackbone(
            base,
            vectors,
            engine="plain" if way == "functional_call" else "lean",
            gradient_checkpointing=way == "checkpointed",
        )
        kept = case == "front end zero and kept" and way != "functional_call"
        return partial(merged, waveforms, lengths, merged.front(waveforms, lengths) if kept else None)

    def step(case: Vectors) -> None:
        if case not in encode_by_case:
            encode_by_case.clear()
            encode_by_case[case] = encoder(case)
        states = encode_by_case[case]()
        torch.stack([layer.square().mean() for layer in states.layers]).sum().backward()

    return step


def _change(base: SpeechEncoder, options: LambdaStepOptions, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2 + seed)
    dtype: torch.dtype = getattr(torch, options.vector_dtype)
    return {
        name: torch.empty_like(weight).uniform_(-0.001, 0.001, generator=generator).to(dtype)
        for name, weight in base.weights().items()
    }


def _of_case(change: dict[str, Tensor], case: Vectors) -> dict[str, Tensor]:
    everywhere = case == "all groups"
    return {name: delta for name, delta in change.items() if everywhere or not name.startswith(FRONT_END)}


def _fusion_bench(base: SpeechEncoder, changes: list[dict[str, Tensor]]) -> Callable[..., States]:
    """fusion_bench's merged model over this encoder, merged anew in each step."""
    from fusion_bench.models.wrappers.layer_wise_fusion import (
        LayerWiseMergedModel,
        get_layer_wise_weights,
    )

    base.requires_grad_(True)  # what is frozen there gets no task vector
    experts = []
    for change in changes:
        experts.append(copy.deepcopy(base))
        with torch.no_grad():
            for name, parameter in experts[-1].model.named_parameters():
                parameter += change[name]
        change.clear()
    start = get_layer_wise_weights(len(experts), len(list(base.parameters())), 0.5)
    merged = LayerWiseMergedModel(start, base, experts, clamp_weights=False)

    def encode(waveforms: Tensor, lengths: Tensor) -> States:
        merged.merge_weights()
        states: States = merged(waveforms, lengths)
        return states

    return encode
