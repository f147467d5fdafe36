"""Merging files: this package's way, mergekit's, and loading everything, each in processes of their own.

What counts is a whole command, from its start to its end: time with all imports, and the highest resident
memory of the whole process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml

from voxstrata.backbone.headers import model_shapes
from voxstrata.benchmarks.measure import Progress, Runs, machine
from voxstrata.benchmarks.result import BenchmarkResult, Row
from voxstrata.benchmarks.shapes import Shape, wavlm_config
from voxstrata.errors import VoxstrataError
from voxstrata.merging.rules.arithmetic import TaskArithmetic
from voxstrata.merging.writing import Planned, write_safetensors
from voxstrata.runs import require_free

MERGEKIT = "mergekit"
COMPARES = {
    "load all": "all checkpoints loaded by safetensors, merged in float32, saved",
    MERGEKIT: "mergekit-pytorch, its raw mode",
    "voxstrata": "this package, a tensor at a time in float64, with the hashes of all inputs",
}
COEFFICIENTS = (0.5, 0.3)
_WEIGHTS = "model.safetensors"
#: Printed by each process behind its work: highest resident memory in kB, processor time in seconds.
_PEAK = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("PEAK", peak, used.ru_utime + used.ru_stime)
"""
_OURS = """
import sys
from pathlib import Path
from voxstrata.merging.files import merge_request
from voxstrata.merging.request import Expert, MergeRequest
folder, out, first, second, method = sys.argv[1:]
experts = {"asr": Expert(f"{folder}/asr", float(first)), "ser": Expert(f"{folder}/ser", float(second))}
merge_request(MergeRequest(f"{folder}/base", experts, method), Path(out))
"""
_LOAD_ALL = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
folder, out, *coefficients = sys.argv[1:]
base, *experts = (load_file(f"{folder}/{name}/model.safetensors") for name in ("base", "asr", "ser"))
merged = {}
for name, weight in base.items():
    merged[name] = weight.clone()
    for expert, coefficient in zip(experts, coefficients):
        merged[name] += float(coefficient) * (expert[name] - weight)
Path(out).mkdir()
save_file(merged, f"{out}/model.safetensors", metadata={"format": "pt"})
"""
_MERGEKIT = """
import sys
from mergekit.scripts.merge_raw_pytorch import main
main(args=[sys.argv[1] + "/mergekit.yaml", sys.argv[2]], standalone_mode=False)
"""


@dataclass(frozen=True)
class MergeFilesOptions:
    """What is measured.

    Args:
        shape: of a WavLM with random weights, "base" or "large".
        mergekit: Python of an environment with mergekit; None leaves it out.
        folder: for the files, of which there are four times the size of a checkpoint; None: the system's.
        repeats: runs of each way.
        threads: of torch; None leaves its choice.
    """

    shape: Shape = "large"
    mergekit: str | None = None
    folder: str | None = None
    repeats: int = 3
    threads: int | None = None

    def quick(self) -> MergeFilesOptions:
        """The same, small enough for a test: its figures say nothing."""
        return replace(self, shape="tiny", repeats=1)


def run(options: MergeFilesOptions, progress: Progress | None = None) -> BenchmarkResult:
    """Measures a merge of two experts into their base, turn by turn.

    Args:
        options: what is measured.
        progress: called before each run.

    Raises:
        VoxstrataError: if the environment has no mergekit, a way fails, or results differ by more than
            rounding.
    """
    wavlm_config(options.shape)
    ways = [way for way in COMPARES if way != MERGEKIT or options.mergekit is not None]
    stated = machine()
    if options.mergekit is not None:
        stated[MERGEKIT] = _mergekit_version(options.mergekit)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, int] = dict.fromkeys(ways, 0)
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_checkpoints(folder, options.shape)
        for turn in range(options.repeats):
            for number, way in enumerate(ways):
                if progress is not None:
                    progress(turn * len(ways) + number, options.repeats * len(ways), way)
                out = folder / f"out-{number}"
                took, used, peak = measured(way, options, folder, out)
                seconds[way].append(took)
                cpu[way].append(used)
                peaks[way] = max(peaks[way], peak)
        differ = {way: _difference(folder / "out-0", folder / f"out-{k}") for k, way in enumerate(ways) if k}
    runs = {way: Runs(tuple(seconds[way]), peaks[way], cpu_seconds=tuple(cpu[way])) for way in ways}
    return BenchmarkResult(
        name="merge-files",
        compares={way: COMPARES[way] for way in ways},
        memory="peak of the whole process",
        reference=MERGEKIT if options.mergekit is not None else "load all",
        settings=asdict(options),
        machine=stated,
        rows=(Row({"shape": options.shape}, runs),),
        figures={f"largest difference of {way} from load all": value for way, value in differ.items()},
    )


def write_checkpoints(folder: Path, shape: Shape, layers: int | None = None) -> None:
    """Writes a base and two experts with random weights, a tensor at a time.

    Args:
        folder: for them.
        shape: of a WavLM.
        layers: transformer layers, where not those of the shape.
    """
    config = wavlm_config(shape, layers)
    config.architectures = ["WavLMModel"]
    shapes = {name: tuple(tensor.shape) for name, tensor in model_shapes(config).items()}

    def drawn(size: tuple[int, ...], place: int, expert: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(place)
        tensor = torch.empty(size).uniform_(-0.05, 0.05, generator=generator)
        if expert:
            generator.manual_seed(place + 100_000 * expert)
            tensor += torch.empty(size).uniform_(-0.005, 0.005, generator=generator)
        return tensor

    for expert, name in enumerate(("base", "asr", "ser")):
        (folder / name).mkdir()
        config.to_json_file(folder / name / "config.json")
        planned = [
            Planned(key, size, torch.float32, lambda size=size, k=k, e=expert: drawn(size, k, e))  # type: ignore[misc]
            for k, (key, size) in enumerate(shapes.items())
        ]
        write_safetensors(folder / name / _WEIGHTS, planned)
    models = [
        {"model": str(folder / name / _WEIGHTS), "parameters": {"weight": weight}}
        for name, weight in zip(("asr", "ser"), COEFFICIENTS, strict=True)
    ]
    content = {
        "merge_method": "task_arithmetic",
        "models": models,
        "base_model": str(folder / "base" / _WEIGHTS),
    }
    (folder / "mergekit.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def measured(
    way: str, options: MergeFilesOptions, folder: Path, out: Path, method: str = TaskArithmetic.name
) -> tuple[float, float, int]:
    """Seconds, processor seconds and peak bytes of one merge in a process of its own.

    Args:
        way: one of `COMPARES`.
        options: of the benchmark.
        folder: that `write_checkpoints` wrote to.
        out: folder to write; an earlier one is removed.
        method: of this package's merge.

    Raises:
        VoxstrataError: if it fails.
    """
    if out.exists():
        for file in out.iterdir():
            file.unlink()
        out.rmdir()
    require_free(out)
    python = options.mergekit if way == MERGEKIT else sys.executable
    assert python is not None
    code = {"voxstrata": _OURS, "load all": _LOAD_ALL, MERGEKIT: _MERGEKIT}[way]
    words = [] if way == MERGEKIT else list(map(str, COEFFICIENTS))
    words += [method] if way == "voxstrata" else []
    environment = dict(os.environ)
    if options.threads is not None:
        environment |= {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    if way == MERGEKIT:
        environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    done = _run([python, "-c", code + _PEAK, str(folder), str(out), *words], environment)
    took = time.perf_counter() - start
    line = next((line for line in done.stdout.splitlines() if line.startswith("PEAK")), "")
    if done.returncode or not line:
        last = (done.stderr.strip().splitlines() or ["no line was printed"])[-1]
        raise VoxstrataError(
            f"{way} ended with status {done.returncode}: {last[:200]}; run it alone to see why"
        )
    _, peak, used = line.split()
    return took, float(used), int(peak) * 1024


def _run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=dict(environment), errors="replace"
        )
    except OSError as fault:
        raise VoxstrataError(
            f"cannot run {command[0]}: {fault.strerror or fault}; give --mergekit the Python of an "
            "environment with mergekit, or leave it out"
        ) from None


def _mergekit_version(python: str) -> str:
    """Of an environment.

    Raises:
        VoxstrataError: if there is none in it.
    """
    code = "import json; from importlib.metadata import version; print(json.dumps(version('mergekit')))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = _run([python, "-c", code], environment)
    if done.returncode:
        raise VoxstrataError(
            f"{python} has no mergekit; install it into an environment of its own (python -m venv mk && "
            "mk/bin/pip install mergekit), or leave --mergekit out"
        )
    return str(json.loads(done.stdout))


def _difference(one: Path, other: Path) -> float:
    """The largest difference between two merges."""
    from voxstrata.backbone.safetensors_files import SafetensorsFile

    files = [SafetensorsFile.open(next(folder.glob("*.safetensors"))) for folder in (one, other)]
    largest = 0.0
    for name in files[0].shapes:
        first, second = (file.read(name).double() for file in files)
        largest = max(largest, float((first - second).abs().max()))
    if largest > 1e-5:
        raise VoxstrataError(
            f"{other.name} gives other weights than {one.name}, by {largest:.2g}; compare them"
        )
    return largest
