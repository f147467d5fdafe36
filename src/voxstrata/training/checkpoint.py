"""Checkpoints that are there or not, never half: written aside, flushed, renamed; then the old one goes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError, TrainingError, VoxstrataError
from voxstrata.training.parameters import Tensors


class _Unreadable(VoxstrataError):
    """Counters of a checkpoint that are no JSON."""


_UNREADABLE = (
    OSError,
    RuntimeError,
    SafetensorError,
    _Unreadable,
    pickle.UnpicklingError,
    ValueError,
    KeyError,
    TypeError,
)

#: Ends the name of a checkpoint that was written before the validation after its step.
_UNVALIDATED = "-unvalidated"


@dataclass
class TrainingState:
    """Where training stands; changed by the loop, carried through checkpoints.

    Args:
        step: optimizer steps done.
        epoch: index of the epoch that the next batch belongs to.
        batches: batches consumed in that epoch.
        val_loss: of the latest validation.
        best_loss: lowest validation loss so far.
        best_step: the step that reached it.
        stale: validations in a row since then.
        elapsed_s: time spent in training, over all starts.
        journal_bytes: length of the journal; what stands behind it belongs to steps that are repeated.
        unvalidated: the validation after the latest step is not done yet.
    """

    step: int = 0
    epoch: int = 0
    batches: int = 0
    val_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    stale: int = 0
    elapsed_s: float = 0.0
    journal_bytes: int = 0
    unvalidated: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """All that training goes on from.

    Args:
        state: counters.
        weights: what training changes in the system.
        best: the same at the lowest validation loss; empty before the first validation.
        optimizer: state of AdamW.
        randomness: states of all generators.
        others: the same of the second and each further process.
    """

    state: TrainingState
    weights: Tensors
    best: Tensors
    optimizer: dict[str, Any]
    randomness: dict[str, Any]
    others: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of a run; the newest whole one counts.

    Args:
        folder: `RunFolder.checkpoints`.
        fingerprint: what must not change between starts (JSON values by name).
        defaults: what holds where the fingerprint of an older version lacks a name.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.fingerprint: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
        self.defaults: dict[str, Any] = json.loads(json.dumps(dict(defaults or {})))

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint; only then the former one is removed. One of this moment is not written again.

        Raises:
            TrainingError: if the disk does not take it; the former one is still there.
        """
        state = checkpoint.state
        target = self.folder / f"step-{state.step:09d}{_UNVALIDATED if state.unvalidated else ''}"
        if target.is_dir():
            return
        partial = self.folder / f".partial-{target.name}"
        try:
            _write(partial, checkpoint, self.fingerprint)
            partial.replace(target)
            _flush(self.folder)
        except (OSError, RuntimeError, SafetensorError) as fault:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"cannot write the checkpoint of step {state.step} into {self.folder}: "
                f"{_line(fault)}; the one before it is kept: free space, then give the same command again"
            ) from None
        for other in self.folder.iterdir():
            if other != target:
                shutil.rmtree(other, ignore_errors=True)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint, or None.

        Raises:
            CheckpointError: if it was made with other options, or cannot be read.
        """
        folders = sorted(self.folder.glob("step-*"), key=_moment)
        if not folders:
            return None
        newest = folders[-1]
        try:
            # Losses may be infinite.
            counters = read_json_object(newest / "state.json", error=_Unreadable, nan=True)
            self._check_fingerprint(counters["fingerprint"])
            rest = torch.load(newest / "training.pt", map_location="cpu", weights_only=True)
            return Checkpoint(
                state=TrainingState(**counters["state"]),
                weights=load_file(newest / "weights.safetensors"),
                best=load_file(newest / "best.safetensors"),
                optimizer=rest["optimizer"],
                randomness=rest["randomness"],
                others=rest.get("others", []),
            )
        except _UNREADABLE as fault:
            # Not the fault's own words: torch advises there to unpickle the file.
            raise CheckpointError(
                f"cannot read the checkpoint {newest} ({type(fault).__name__}); it is damaged or of another "
                f"version: remove {self.folder} to start again"
            ) from None

    def _check_fingerprint(self, then: Mapping[str, Any]) -> None:
        now, then = self.fingerprint, {**self.defaults, **then}
        changed = [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
        if changed:
            differences = "; ".join(f"{name} was {then.get(name)}, is {now.get(name)}" for name in changed)
            raise CheckpointError(
                f"{self.folder} holds a training with other options ({differences}); "
                "give the same options to go on, or choose another run folder"
            )


def _moment(folder: Path) -> tuple[str, bool]:
    """By what checkpoints are sorted: of one step, the one after validation is the newer one."""
    step = folder.name.removesuffix(_UNVALIDATED)
    return step, step == folder.name


def _line(fault: BaseException) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0]


def _write(folder: Path, checkpoint: Checkpoint, fingerprint: Mapping[str, Any]) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    save_file(checkpoint.weights, folder / "weights.safetensors")
    save_file(checkpoint.best, folder / "best.safetensors")
    rest = {name: getattr(checkpoint, name) for name in ("optimizer", "randomness", "others")}
    torch.save(rest, folder / "training.pt")
    counters = {"state": asdict(checkpoint.state), "fingerprint": dict(fingerprint)}
    (folder / "state.json").write_text(json.dumps(counters, indent=2), encoding="utf-8")
    for path in sorted(folder.iterdir()):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    """Makes sure that a file's content, or a folder's entries, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows has no handle on a folder
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
