"""One lambda step: forward, loss over all layers, backward to all coefficients; time and memory of each way.

Ways are compared in one run: a process of its own for each way and round, rounds interleaved, medians over all
timed steps. Memory is the peak beyond what is resident before the first step (base and task vectors).
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: WavLM's two sizes, and one for tests.
SHAPES: dict[str, dict[str, Any]] = {
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    },
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    },
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    },
}

#: Ways of a step; those from "zero front end" on have task vectors that are zero in the convolutions.
WAYS = (
    *("functional_call", "lean", "gradient checkpointing"),
    *("functional_call, zero front end", "lean, zero front end", "gradient checkpointing, zero front end"),
    "lean, kept front end",
)
FUSION_BENCH = "fusion_bench"
Step = Callable[[], Any]


@dataclass(frozen=True)
class Options:
    """What is measured.

    Args:
        shape: key of `SHAPES`.
        vectors: K.
        batch_size: clips.
        duration_s: of each clip.
        rounds: processes of each way.
        steps: timed in each process, after one that is not.
        threads: of torch.
        attention: "fast" or "reference", of the encoder, in all ways.
        vector_dtype: in which task vectors are held, e.g. "bfloat16".
    """

    shape: str = "large"
    vectors: int = 2
    batch_size: int = 4
    duration_s: float = 3.0
    rounds: int = 3
    steps: int = 2
    threads: int = 1
    attention: str = "fast"
    vector_dtype: str = "float32"


def run(
    options: Options,
    *,
    ways: Sequence[str] | None = None,
    out: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures and compares.

    Args:
        options: what is measured.
        ways: of `WAYS`; None for all, and fusion_bench where it is installed.
        out: JSON file to write.
        progress: called with a line per process.

    Returns:
        {"options", "machine", "ways": {way: {"time_s", "peak_mb", "times_s", "peaks_mb"}},
        "ratios": {way: {"time", "memory", "time_same_vectors", "memory_same_vectors"}}}: medians, and ratios
        to functional_call with all groups and with the same vectors.

    Raises:
        VoxstrataError: if a way fails, or the file cannot be written.
    """
    from voxstrata.errors import VoxstrataError
    from voxstrata.runs import write_json

    if ways is None:
        ways = (*WAYS, FUSION_BENCH) if importlib.util.find_spec(FUSION_BENCH) else WAYS
    if unknown := set(ways) - {*WAYS, FUSION_BENCH}:
        raise VoxstrataError(f"unknown ways {sorted(unknown)}; allowed are {', '.join(WAYS)}, {FUSION_BENCH}")
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in ways:
            measured = _in_own_process(options, way)
            found[way].append(measured)
            if progress is not None:
                times = ", ".join(f"{t:.2f}" for t in measured["times_s"])
                progress(f"round {number + 1}: {way}: {times} s, {measured['peak_mb']:.0f} MB")
    result = {"options": asdict(options), "machine": _machine(options), **summary(found)}
    if out is not None:
        write_json(out, result)
    return result


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians and ratios of what was measured: way -> a row per process with "times_s" and "peak_mb"."""
    ways: dict[str, dict[str, Any]] = {}
    for way, rows in found.items():
        times = [t for row in rows for t in row["times_s"]]
        peaks = [row["peak_mb"] for row in rows]
        ways[way] = {
            "time_s": statistics.median(times),
            "peak_mb": statistics.median(peaks),
            "times_s": times,
            "peaks_mb": peaks,
        }
    ratios = {}
    for way, row in ways.items():
        same = "functional_call" if "front end" not in way else "functional_call, zero front end"
        ratios[way] = {
            f"{kind}{suffix}": row[key] / ways[other][key]
            for suffix, other in (("", "functional_call"), ("_same_vectors", same))
            for kind, key in (("time", "time_s"), ("memory", "peak_mb"))
            if other in ways and ways[other][key]
        }
    return {"ways": ways, "ratios": ratios}


def _in_own_process(options: Options, way: str) -> dict[str, Any]:
    from voxstrata.errors import VoxstrataError

    told = json.dumps({"way": way, **asdict(options)})
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "voxstrata.benchmarks.lambda_step", told]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise VoxstrataError(f"the benchmark of {way} failed ({done.returncode}): {reason}; see its options")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _machine(options: Options) -> dict[str, Any]:
    import torch

    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text().splitlines()


def measure(options: Options, way: str) -> dict[str, Any]:
    """Times and peak of one way, in this process; the first step is not timed, but counts for the peak."""
    import torch

    torch.set_num_threads(options.threads)
    step = _step(options, way)
    resident = _settle()
    step()
    times = []
    for _ in range(options.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"times_s": times, "peak_mb": _status_mb("VmHWM") - resident, "resident_mb": resident}


def _settle() -> float:
    """Gives freed memory back, starts the count of the peak anew, and tells what is resident, in MB."""
    import ctypes

    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    for line in _lines(Path("/proc/self/status")):
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1000
    return 0.0


def _step(options: Options, way: str) -> Step:
    import torch
    from transformers import WavLMConfig

    from voxstrata.backbone.encoder import build_backbone
    from voxstrata.merging.merged import MergedBackbone

    base = build_backbone(
        WavLMConfig(**SHAPES[options.shape]), seed=0, attention=options.attention
    ).requires_grad_(False)
    base.eval()
    if way == FUSION_BENCH:
        encode, coefficients = _fusion_bench(base, options.vectors)
    else:
        vectors = _vectors(base, options, zero_front_end="front end" in way)
        engine = "plain" if way.startswith("functional_call") else "lean"
        merged = MergedBackbone(
            base,
            vectors,
            engine=engine,
            dtype=getattr(torch, options.vector_dtype),
            gradient_checkpointing=way.startswith("gradient checkpointing"),
        )
        del vectors
        coefficients = merged.coefficients
        encode = merged
    waveforms = torch.randn(
        options.batch_size, int(16_000 * options.duration_s), generator=torch.Generator().manual_seed(1)
    )
    lengths = torch.full((len(waveforms),), waveforms.shape[1])
    front = (merged.front(waveforms, lengths),) if way == "lean, kept front end" else ()

    def step() -> None:
        states = encode(waveforms, lengths, *front)
        sum((layer.square().mean() for layer in states.layers), torch.zeros(())).backward()
        coefficients.grad = None

    return step


def _vectors(base: Any, options: Options, *, zero_front_end: bool) -> dict[str, Any]:
    import torch

    from voxstrata.backbone.fingerprint import fingerprint
    from voxstrata.merging.front import FRONT_END
    from voxstrata.merging.task_vector import TaskVector

    weights = base.weights()
    found = fingerprint(weights)
    vectors = {}
    for k in range(options.vectors):
        generator = torch.Generator().manual_seed(2 + k)
        deltas = {}
        for name, weight in weights.items():
            delta = torch.empty_like(weight).uniform_(-0.001, 0.001, generator=generator)
            deltas[name] = delta.zero_() if zero_front_end and name.startswith(FRONT_END) else delta
        vectors[f"vector {k}"] = TaskVector(deltas, found, f"random {k}")
    return vectors


def _fusion_bench(base: Any, vectors: int) -> tuple[Any, Any]:
    """fusion_bench's merged model over this encoder, merged anew in each step."""
    import copy

    import torch
    from fusion_bench.models.wrappers.layer_wise_fusion import (
        LayerWiseMergedModel,
        get_layer_wise_weights,
    )

    base.requires_grad_(True)
    experts = [copy.deepcopy(base) for _ in range(vectors)]
    with torch.no_grad():
        for k, expert in enumerate(experts):
            generator = torch.Generator().manual_seed(2 + k)
            for parameter in expert.parameters():
                change = torch.empty_like(parameter).uniform_(-0.001, 0.001, generator=generator)
                parameter += change
    start = get_layer_wise_weights(vectors, len(list(base.parameters())), 0.5)
    merged = LayerWiseMergedModel(start, base, experts, clamp_weights=False)

    def encode(waveforms: Any, lengths: Any) -> Any:
        merged.merge_weights()
        return merged(waveforms, lengths)

    return encode, merged.merge_weight


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(measure(Options(**{k: v for k, v in given.items() if k != "way"}), given["way"])))
