"""Where a run's numbers come from."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.locate import locate
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.documents import read_json_object
from voxstrata.errors import RecipeError
from voxstrata.experiments.setup import Setup
from voxstrata.methods.method import Facts, TrainedMethod
from voxstrata.recipes.reading import dump
from voxstrata.runs import FORMAT_VERSION, RunFolder, atomic_write, write_json

PACKAGES = ("voxstrata", "torch", "transformers", "accelerate", "lhotse", "numpy", "scikit-learn")


def commit() -> str | None:
    """The checkout's commit, with "+changes" if files differ from it; None for an installed package."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "--error-unmatch", __file__):
            return None
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> str:
    """Processor, cores and memory, and the GPU where there is one."""
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{platform.system()} {platform.machine()}, {cores} cores, {memory:.0f} GiB"
    return text + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU")


def now() -> str:
    """Date and time, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def begin(setup: Setup, run: RunFolder) -> None:
    """Writes recipe and provenance into a folder, once all parts of the recipe were found to hold.

    A folder with a checkpoint keeps those of its first start, and must go on with the same data and weights.

    Raises:
        RecipeError: see `require_unchanged`.
    """
    facts = setup.facts
    fingerprints = {use.path: PreparedCorpus.load(Path(use.path)).fingerprint for use in setup.corpora}
    weights = _weights(facts) if isinstance(setup.method, TrainedMethod) else None
    if run.recipe.is_file() and any(run.checkpoints.glob("step-*")):
        require_unchanged(run, fingerprints, weights or {})
        return
    # A base that no run made is no parent.
    made = facts.base is not None and RunFolder(Path(facts.base)).recipe.is_file()
    parents = facts.built_on if made or facts.base is None else facts.built_on[1:]
    about = provenance(
        seed=setup.recipe.seed,
        fingerprints=fingerprints,
        parents={role: _from(run, source) for role, source in parents},
        weights=weights,
        base=None if facts.base is None else _from(run, facts.base),
    )
    write_json(run.provenance, about)
    atomic_write(run.recipe, dump(setup.recipe))


def _from(run: RunFolder, source: str) -> str:
    """A folder relative to the run, so that a moved folder of runs still finds it; names and hub ids stay."""
    return os.path.relpath(source, run.path) if Path(source).exists() else source


def _weights(facts: Facts) -> dict[str, str]:
    """Content hashes of what a training builds on; a file that serves twice is read once."""
    sources = {f"experts.{parent.name}": parent.source for parent in facts.parents}
    if facts.base is not None:
        sources = {"base": facts.base, **sources}
    hashes = {source: open_checkpoint(locate(source)).fingerprint() for source in set(sources.values())}
    return {name: hashes[source] for name, source in sources.items()}


def provenance(
    *,
    seed: int,
    fingerprints: dict[str, str],
    parents: dict[str, str],
    weights: dict[str, str] | None = None,
    base: str | None = None,
) -> dict[str, Any]:
    """What is known when a run starts.

    Args:
        seed: of the recipe.
        fingerprints: corpus folder -> content hash.
        parents: vector name -> the run or checkpoint it came from; a folder relative to the run's.
        base: the encoder that the run starts from; a folder relative to the run's.
        weights: base or expert -> content hash, of what a training builds on; None where nothing is trained.
    """
    import torch

    return {
        "format": FORMAT_VERSION,
        "started": now(),
        "commit": commit(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": machine(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "seed": seed,
        **({} if base is None else {"base": base}),
        "data": fingerprints,
        "parents": parents,
        **({} if weights is None else {"weights": weights}),
    }


def require_unchanged(run: RunFolder, fingerprints: Mapping[str, str], weights: Mapping[str, str]) -> None:
    """Refuses to go on with a training whose corpora or weights are not those that it began with.

    Where they lie is free. What an older version did not write down cannot be held against anything.

    Args:
        run: with the provenance of the first start.
        fingerprints: as in `provenance`, of now, in the recipe's order.
        weights: as in `provenance`, of now.

    Raises:
        RecipeError: naming what has changed, or if the provenance cannot be read.
    """
    if not run.provenance.is_file():
        return
    advice = "put it back to go on, or remove the folder to start again"
    began = read_json_object(run.provenance, error=RecipeError, advice=advice)
    if odd := [name for name in ("data", "weights") if not _are_hashes(began.get(name, {}))]:
        raise RecipeError(f"{run.provenance} has {odd[0]} that are no hashes by name; {advice}")
    changed = [*_changed_corpora(began.get("data", {}), fingerprints)]
    changed += _changed(began.get("weights", {}), weights)
    if changed:
        raise RecipeError(
            f"{run.path} was begun with other data or weights ({'; '.join(changed)}); put back what it was "
            "begun with to go on, or remove the folder to start again"
        )


def _are_hashes(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


def _changed_corpora(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    if then.keys() != now.keys():
        # Folders were moved: the order of the corpora tells which one is which.
        first, second = (list(dict.fromkeys(found.values())) for found in (then, now))
        if not then or first == second:
            return []
        return [f"corpora were {_shown(*first)}, are {_shown(*second)}"]
    return _changed(then, now, "corpus ")


def _changed(then: Mapping[str, str], now: Mapping[str, str], kind: str = "") -> list[str]:
    return [
        f"{kind}{name} was {_shown(then[name])}, is {_shown(found)}"
        for name, found in now.items()
        if name in then and then[name] != found
    ]


def _shown(*hashes: str) -> str:
    return ", ".join(value[:12] for value in hashes)
