"""Where a run's numbers come from."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voxstrata.runs import FORMAT_VERSION

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


def provenance(*, seed: int, fingerprints: dict[str, str], parents: dict[str, str]) -> dict[str, Any]:
    """What is known when a run starts.

    Args:
        seed: of the recipe.
        fingerprints: corpus folder -> content hash.
        parents: vector name -> the run or checkpoint it came from; a folder relative to the run's.
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
        "data": fingerprints,
        "parents": parents,
    }
