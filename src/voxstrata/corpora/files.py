"""Finding the recordings of a release, whichever format they were unpacked or converted to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from voxstrata.audio import AUDIO_SUFFIXES
from voxstrata.errors import CorpusError

#: Suffixes tried, in this order, where a corpus lists its recordings without one.
LISTED_SUFFIXES = (".wav", ".flac", ".sph", ".raw")

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"


def corpus_folder(folder: Path) -> Path:
    """The folder, made absolute.

    Raises:
        CorpusError: if it is not there.
    """
    if not folder.is_dir():
        raise CorpusError(f"no folder at {folder}; give the folder into which the corpus was unpacked")
    return folder.resolve()


def audio_files(folder: Path) -> Iterator[Path]:
    """Recordings below a folder, sorted; macOS resource forks (`._name.wav`) are no recordings."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("._"):
            yield path


def listed_recording(stem: Path) -> Path:
    """The recording that a list names without suffix; `stem.wav` where there is none, to be found missing."""
    for suffix in LISTED_SUFFIXES:
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    return stem.with_name(stem.name + LISTED_SUFFIXES[0])


def is_lfs_stub(path: Path) -> bool:
    """Whether a file is what git leaves where git-lfs did not fetch: lines of text that name the content."""
    with path.open("rb") as file:
        return file.read(len(_LFS_HEAD)) == _LFS_HEAD


def nothing_found(corpus: str, folder: Path, expected: str) -> CorpusError:
    """The error of a reader that found no recording."""
    return CorpusError(f"no {corpus} recordings in {folder}; expected {expected}")


def strange_names(corpus: str, paths: list[Path], expected: str) -> CorpusError:
    """The error of a reader that found recordings whose names it cannot read."""
    shown = ", ".join(str(path) for path in paths[:20])
    more = f" and {len(paths) - 20} more" if len(paths) > 20 else ""
    return CorpusError(
        f"{len(paths)} recordings do not have a name of {corpus} ({expected}): {shown}{more}; "
        "move them out of the folder"
    )
