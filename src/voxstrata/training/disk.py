"""Whether a run folder can take the checkpoints, asked before the work and not after hours of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from voxstrata.errors import TrainingError, in_bytes
from voxstrata.runs import RunFolder
from voxstrata.system import System
from voxstrata.training.parameters import trained_bytes

#: Options, counters, random states, file headers.
_OVERHEAD_BYTES = 256 * 1024


def checkpoint_bytes(system: System) -> int:
    """Size of one checkpoint: weights, the two moments of AdamW and the best weights."""
    parameters, buffers = trained_bytes(system)
    return 4 * parameters + 2 * buffers + _OVERHEAD_BYTES


def check_disk(run: RunFolder, system: System) -> None:
    """Checks that the run folder is writable and has room for two checkpoints (the old one goes last).

    Raises:
        TrainingError: if not, with what is needed and what is free.
    """
    probe = run.checkpoints / ".writable"
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as fault:
        raise TrainingError(
            f"cannot write into {run.path} ({fault.strerror}); choose another folder, or its permissions"
        ) from None
    needed = max(0, 2 * checkpoint_bytes(system) - _held_bytes(run.checkpoints))
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise TrainingError(
            f"{run.path} needs {in_bytes(needed)} for checkpoints (weights, optimizer and best weights, "
            f"old and new at once) and has {in_bytes(free)} free; free space or choose another folder"
        )


def _held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
