"""One lambda step: forward, loss over all layers and backward to all coefficients, beside other ways."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Literal, get_args

import torch
from torch import Tensor

from voxstrata.backbone.attention import Attention
from voxstrata.backbone.encoder import SpeechEncoder, States, build_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.headers import model_shapes
from voxstrata.benchmarks.measure import Progress, Step, interleaved, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.benchmarks.shapes import Shape, wavlm_config
from voxstrata.errors import VoxstrataError
from voxstrata.methods.adaltm.compressed import vector_of
from voxstrata.methods.adaltm.factors import Change, Factors, multiplied_out
from voxstrata.methods.adaltm.lean.heap import Heap
from voxstrata.methods.adaltm.merged import MergedBackbone

SAMPLE_RATE = 16_000
FUSION_BENCH = "fusion_bench"
#: What others do: ratios are given over both.
DENOMINATORS = ("functional_call", FUSION_BENCH)
COMPARES = {
    "functional_call": "all tensors merged before the forward, autograd keeps them and their gradients",
    "lean": "this package: merged layer by layer, again in the backward",
    "checkpointed": "lean, and activations are computed again too",
    "low-rank": "lean, and matrices of the vectors are factors, multiplied with a layer's input",
    "idle-kept": "lean, and freed memory is left to the C library",
    FUSION_BENCH: "fusion_bench's LayerWiseMergedModel, a coefficient per tensor",
}
Vectors = Literal["all-groups", "front-zero", "front-kept"]
VectorDtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LambdaStepOptions:
    """What is measured.

    Args:
        shape: "base" or "large".
        layers: transformer layers, where not those of the shape.
        vectors: K task vectors.
        rank: of the matrices in them; the low-rank way holds those as factors, the others multiplied out.
        vector_dtype: in which they are held; fusion_bench holds them in that of the base.
        batch_size: clips in a batch.
        clip_s: length of each clip.
        cases: task vectors in all groups; zero in the convolutional front end; the same, and this package's
            ways have the front end's output from an earlier step.
        ways: of `COMPARES`, the first is the reference; None for all that are installed.
        attention: of the encoder, in all ways.
        repeats: timed runs of each.
        threads: of torch; None leaves its choice.
    """

    shape: Shape = "large"
    layers: int | None = None
    vectors: int = 2
    rank: int = 16
    vector_dtype: VectorDtype = "float32"
    batch_size: int = 4
    clip_s: float = 3.0
    cases: tuple[Vectors, ...] = get_args(Vectors)
    ways: tuple[str, ...] | None = None
    attention: Attention = "fast"
    repeats: int = 5
    threads: int | None = None

    def quick(self) -> LambdaStepOptions:
        """The same, small enough for a test: its figures say nothing."""
        return replace(self, shape="tiny", rank=2, clip_s=0.5, batch_size=2, repeats=2)


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
    _check("ways", ways, COMPARES)
    _check("cases", options.cases, get_args(Vectors))
    _check("dtypes", (options.vector_dtype,), get_args(VectorDtype))
    if FUSION_BENCH in ways and not _installed(FUSION_BENCH):
        raise VoxstrataError(f"{FUSION_BENCH} is not installed; leave it out, or see `make bench`")
    stated = machine() | ({FUSION_BENCH: version(FUSION_BENCH)} if FUSION_BENCH in ways else {})
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
        settings=asdict(replace(options, ways=ways)),
        machine=stated,
        rows=tuple(Row({"vectors": case}, found[case]) for case in options.cases),
        also_over=tuple(way for way in DENOMINATORS if way in ways[1:]),
        figures=_vector_megabytes(options) if "low-rank" in ways else {},
    )


def _check(kind: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    if unknown := sorted({*given} - {*allowed}):
        raise VoxstrataError(f"unknown {kind} {', '.join(unknown)}; allowed are {', '.join(allowed)}")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _prepare(way: str, options: LambdaStepOptions) -> Step:
    samples = int(options.clip_s * SAMPLE_RATE)
    waveforms = torch.randn(options.batch_size, samples, generator=torch.Generator().manual_seed(1))
    lengths = torch.full((options.batch_size,), samples)
    encode_by_case: dict[str, Callable[[], States]] = {}
    build = _fusion_bench if way == FUSION_BENCH else partial(_merged, way)

    def step(case: Vectors) -> None:
        if case not in encode_by_case:
            encode_by_case.clear()
            encode_by_case[case] = build(options, case, waveforms, lengths)
        states = encode_by_case[case]()
        torch.autograd.backward(torch.stack([layer.square().mean() for layer in states.layers]).sum())

    return step


def _base(options: LambdaStepOptions) -> SpeechEncoder:
    base = build_backbone(wavlm_config(options.shape, options.layers), seed=0, attention=options.attention)
    return base.requires_grad_(False).eval()


def _has_factors(name: str, shape: Sequence[int], rank: int) -> bool:
    """Whether a tensor's difference is a product of two thin matrices."""
    return bool(layer_index(name)) and len(shape) == 2 and min(shape) > 2 * rank


def _vector_megabytes(options: LambdaStepOptions) -> dict[str, float]:
    """What the vectors take that the ways hold, and that is no part of their peaks."""
    config = wavlm_config(options.shape, options.layers)
    size = options.vectors * getattr(torch, options.vector_dtype).itemsize / 1e6
    whole = thin = 0
    for name, tensor in model_shapes(config).items():
        whole += tensor.numel()
        factored = _has_factors(name, tensor.shape, options.rank)
        thin += options.rank * sum(tensor.shape) if factored else tensor.numel()
    return {"MB of vectors": whole * size, "MB of vectors, low-rank": thin * size}


def _change(base: SpeechEncoder, options: LambdaStepOptions, case: Vectors, k: int) -> dict[str, Change]:
    """The tensors that task vector k changes, and by how much; matrices of the layers as factors."""
    generator = torch.Generator().manual_seed(2 + k)
    dtype: torch.dtype = getattr(torch, options.vector_dtype)

    def drawn(shape: Sequence[int], largest: float) -> Tensor:
        return torch.empty(*shape).uniform_(-largest, largest, generator=generator).to(dtype)

    changes: dict[str, Change] = {}
    for name, weight in base.weights().items():
        if case != "all-groups" and base.family.is_front_end(name):
            continue
        if _has_factors(name, weight.shape, options.rank):
            # Their product has the spread of the other changes.
            largest = (0.001 * (3 / options.rank) ** 0.5) ** 0.5
            out, features = weight.shape
            changes[name] = Factors(
                drawn((out, options.rank), largest), drawn((options.rank, features), largest)
            )
        else:
            changes[name] = drawn(weight.shape, 0.001)
    return changes


def _merged(
    way: str, options: LambdaStepOptions, case: Vectors, waveforms: Tensor, lengths: Tensor
) -> Callable[[], States]:
    base = _base(options)
    found = fingerprint(base.weights())
    dtype: torch.dtype = getattr(torch, options.vector_dtype)
    vectors = {}
    for k in range(options.vectors):
        changes = _change(base, options, case, k)
        if way != "low-rank":
            changes = {name: multiplied_out(change).to(dtype) for name, change in changes.items()}
        vectors[f"vector {k}"] = vector_of(changes, found, "random")
    merged = MergedBackbone(
        base,
        vectors,
        engine="plain" if way == "functional_call" else "lean",
        gradient_checkpointing=way == "checkpointed",
    )
    if way == "idle-kept":
        merged._heap = _Untouched()
    kept = case == "front-kept" and way != "functional_call"
    return partial(merged, waveforms, lengths, merged.front(waveforms, lengths) if kept else None)


class _Untouched(Heap):
    """A heap of which nothing is given back."""

    def give_back(self, allowed: int = 0) -> None:
        pass


def _fusion_bench(
    options: LambdaStepOptions, case: Vectors, waveforms: Tensor, lengths: Tensor
) -> Callable[[], States]:
    """fusion_bench's merged model over the same encoder, merged anew in each step."""
    from fusion_bench.models.wrappers.layer_wise_fusion import (
        LayerWiseMergedModel,
        get_layer_wise_weights,
    )

    base = _base(options)
    experts = []
    for k in range(options.vectors):
        change = _change(base, options, case, k)
        experts.append(copy.deepcopy(base))
        with torch.no_grad():
            for name, parameter in experts[-1].model.named_parameters():
                if name in change:
                    parameter += multiplied_out(change[name])
    for name, parameter in base.model.named_parameters():  # what is frozen there gets no task vector
        learned = case == "all-groups" or not base.family.is_front_end(name)
        parameter.requires_grad_(learned and name not in base.family.fixed)
    changed = sum(parameter.requires_grad for parameter in base.parameters())
    start = get_layer_wise_weights(len(experts), changed, 0.5)
    merged = LayerWiseMergedModel(start, base, experts, clamp_weights=False)

    def encode() -> States:
        merged.merge_weights()
        states: States = merged(waveforms, lengths)
        return states

    return encode
