"""The run folder: what a run leaves, and where. Nothing in it is ever half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.errors import VoxstrataError

FORMAT_VERSION = 1
#: A run's list of the clips that it and its parents were trained on.
TRAINING_CLIPS = "training_clips.jsonl.gz"


def atomic_write(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, also after a crash, sees the old content or the new, never a part.

    Raises:
        VoxstrataError: if the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as fault:
        with suppress(OSError):
            partial.unlink()
        raise VoxstrataError(
            f"cannot write {path}: {fault.strerror}; free space or choose another folder"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside `runs/NAME/`. A run is done when `COMPLETE` stands in it."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe (YAML)."""
        return self.path / "recipe.yaml"

    @property
    def provenance(self) -> Path:
        """Commit, versions, seed, threads, device, data fingerprint, format version, parents (JSON)."""
        return self.path / "provenance.json"

    @property
    def journal(self) -> Path:
        """One JSON object a line: `{"kind": "step" | "validation", "step", "epoch", "loss", ...}`."""
        return self.path / "journal.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Resumable training state."""
        return self.path / "checkpoints"

    def predictions(self, split: str) -> Path:
        """Predictions file of a split."""
        return self.path / "predictions" / f"{split}.jsonl"

    @property
    def metrics(self) -> Path:
        """Scores of the predictions files (JSON): split -> metric -> value or object."""
        return self.path / "metrics.json"

    @property
    def figures(self) -> Path:
        """SVG figures and the numbers behind them as CSV."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """Self-contained HTML page."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """What the run trained, loadable."""
        return self.path / "model"

    @property
    def training_clips(self) -> Path:
        """What it and its parents were trained on: ids, speakers, hashes of audio and sentences."""
        return self.path / TRAINING_CLIPS

    @property
    def leaks(self) -> Path:
        """What of its training meets its dev and test clips (JSON)."""
        return self.path / "leaks.json"

    @property
    def complete(self) -> Path:
        """The marker that says the run is done."""
        return self.path / "COMPLETE"

    @property
    def is_complete(self) -> bool:
        """Whether the run is done."""
        return self.complete.is_file()

    def journal_rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Rows of the journal; a last line cut off by a crash is passed over."""
        if not self.journal.is_file():
            return []
        rows = []
        for line in self.journal.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and (kind is None or row.get("kind") == kind):
                rows.append(row)
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the journal."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")

    @contextmanager
    def lock(self, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Holds the folder, so that two processes never train into the same one; see `folder_lock`."""
        with folder_lock(self.path, waiting=waiting):
            yield


@contextmanager
def folder_lock(folder: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a folder against other processes.

    Args:
        folder: made if need be.
        waiting: where another process holds it, called with a line, and then waited; None: an error.

    Raises:
        VoxstrataError: if another process holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    held = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise VoxstrataError(
                f"{folder} is in use by another process; wait for it, or choose another folder"
            ) from None
        waiting(f"{folder} is in use by another process, which is waited for")
        held.acquire()
    except OSError as fault:
        raise VoxstrataError(f"cannot write in {folder}: {fault.strerror}; choose another folder") from None
    try:
        yield
    finally:
        held.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder just now, see `folder_lock`."""
    from filelock import FileLock, Timeout

    if not (folder / ".lock").is_file():
        return False
    held = FileLock(folder / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        return True
    held.release()
    return False
