"""The run folder: what a run leaves, and where. Nothing in it is ever half-written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.documents import parse_json, read_json_object
from voxstrata.errors import VoxstrataError

FORMAT_VERSION = 1
#: A run's list of the clips that it and its parents were trained on.
TRAINING_CLIPS = "training_clips.jsonl.gz"
#: What a process is still writing, or left when it was killed.
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,10})\.tmp")
_LARGEST_PROCESS = 2**31 - 1
#: Ends the name of what is about to be replaced.
_FORMER = "-former"


def atomic_write(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, also after a crash, sees the old content or the new, never a part.

    Raises:
        VoxstrataError: if the file cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with _aside(path) as partial, partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as fault:
        raise VoxstrataError(_cannot_write(path, fault)) from None


@contextmanager
def written_whole(
    path: Path,
    *,
    keep: bool = False,
    failures: tuple[type[Exception], ...] = (),
    error: type[VoxstrataError] = VoxstrataError,
) -> Iterator[Path]:
    """Lets a file or folder be written aside, and puts it in its place once all of it is written.

    What was there before is replaced then; after a fault it is as it was, and nothing lies beside it. What
    killed processes left of the same name is removed.

    Args:
        path: of the file or folder.
        keep: of an older folder the files stay that the new one has not.
        failures: what else than OSError says that it cannot be written.
        error: what is raised.

    Yields:
        The path to write to. Nothing lies there yet, but the folder that it is in does.

    Raises:
        VoxstrataError: of type `error`, if it cannot be written.
    """
    faults: tuple[type[Exception], ...] = (OSError, *failures)
    if path.is_symlink() or path.name in ("", ".."):
        # What a link leads to is written, and the current folder has a name as well.
        path = path.resolve()
    try:
        sweep(path.parent, path.name, deep=False)
        with _aside(path, keep=keep) as partial:
            yield partial
            _flush_all(partial)
    except faults as fault:
        raise error(_cannot_write(path, fault)) from None


def require_free(
    folder: Path, *, overwrite: bool = False, error: type[VoxstrataError] = VoxstrataError
) -> None:
    """Refuses a folder to write to that holds something; before the work, not after it.

    Args:
        folder: new or empty, or any with `overwrite`.
        overwrite: whether it may hold something.
        error: what is raised.

    Raises:
        VoxstrataError: of type `error`, naming what it holds, or if it is no folder.
    """
    if folder.is_dir():
        held = sorted(path.name for path in folder.iterdir())
        if held and not overwrite:
            shown = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
            raise error(
                f"{folder} is there already and holds {shown}; give a new folder, or say that it may be "
                "overwritten (overwrite=True, --overwrite)"
            )
    elif folder.exists() or folder.is_symlink():
        raise error(f"{folder} is there already and is no folder; give another place")


def sweep(folder: Path, name: str = "*", *, deep: bool = True) -> None:
    """Removes what processes that are gone left half-written (`.NAME.PID.tmp`).

    Args:
        folder: where to look.
        name: of the files or folders; "*": of all.
        deep: also in the folders below.
    """
    if not folder.is_dir():
        return
    for place, folders, files in os.walk(folder):
        for found in (*folders, *files):
            match = _PARTIAL.fullmatch(found)
            if not match or _runs(int(match["process"])):
                continue
            whole = match["name"].removesuffix(_FORMER)
            if name not in ("*", whole):
                continue
            if whole != match["name"] and not (Path(place) / whole).exists():
                # Killed between two renamings: the former one is whole.
                (Path(place) / found).replace(Path(place) / whole)
            else:
                _remove(Path(place) / found)
        if not deep:
            return


@contextmanager
def _aside(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """A path of this process beside another, which it replaces at the end, or leaves after a fault."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        yield partial
        if not (partial.is_dir() and path.is_dir()):
            partial.replace(path)
        elif keep:
            for file in sorted(partial.iterdir()):
                file.replace(path / file.name)
            _remove(partial)
        else:
            # A folder cannot take the place of one that holds files.
            former = path.with_name(f".{path.name}{_FORMER}.{os.getpid()}.tmp")
            path.replace(former)
            partial.replace(path)
            _remove(former)
    except BaseException:
        _remove(partial)
        raise


def _cannot_write(path: Path, fault: Exception) -> str:
    reason = getattr(fault, "strerror", None) or (str(fault).splitlines() or [type(fault).__name__])[0]
    # Inside what is written aside, the name that it will have.
    parts = [match["name"] if (match := _PARTIAL.fullmatch(part)) else part for part in path.parts]
    return f"cannot write {Path(*parts)}: {reason}; free space or choose another folder"


def _flush_all(path: Path) -> None:
    """Makes sure that a file, or all files of a folder, are on the disk."""
    for file in [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    import psutil

    return process <= _LARGEST_PROCESS and psutil.pid_exists(process)


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    def scores(self) -> dict[str, dict[str, Any]]:
        """What `metrics` holds; empty before the run was scored."""
        if not self.metrics.is_file():
            return {}
        return read_json_object(self.metrics, nan=True)

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
        for line in self.journal.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = parse_json(line, "a row", nan=True)
            except VoxstrataError:
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
def as_left(run: RunFolder) -> Iterator[None]:
    """Makes one line of files of a run that hold something else than runs leave.

    Raises:
        VoxstrataError: in place of what reading them raised.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as fault:
        raise VoxstrataError(
            f"{run.metrics} or {run.journal.name} beside it do not hold what a run leaves "
            f"({type(fault).__name__}: {fault}); train into another folder"
        ) from None


@contextmanager
def folder_lock(folder: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a folder against other processes; what killed ones left half-written in it is removed.

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
        sweep(folder)
        yield
    finally:
        held.release()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps a file or folder for this process alone while it is written; nothing is left beside it.

    Trainings hold their run folder instead (`folder_lock`).

    Raises:
        VoxstrataError: if another process of this user writes it.
    """
    from filelock import FileLock, Timeout

    place = hashlib.sha256(os.fsencode(out.absolute().resolve())).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"voxstrata-writing-{getattr(os, 'getuid', int)()}"
    held = FileLock(folder / f"{place}.lock")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        raise VoxstrataError(
            f"{out} is being written by another process; wait for it, or choose another place"
        ) from None
    except OSError:
        # Without a place for temporary files it is written all the same.
        yield
        return
    try:
        yield
    finally:
        held.release()
        with suppress(OSError):
            Path(held.lock_file).unlink()


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
