"""What lies in a release's folder: recordings in whichever format, text in UTF-8, and tar files."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from voxstrata.audio import FolderContent, folder_content
from voxstrata.errors import CorpusError

#: Suffixes tried, in this order, where a corpus lists its recordings without one.
LISTED_SUFFIXES = (".wav", ".flac", ".sph", ".raw")

#: Folders whose names begin so hold what is being unpacked, or was when the program was killed.
PARTIAL = ".partial-"

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_TAR_ENDINGS = (".tar.gz", ".tar")
#: Room for unpacked clips, which fill whole blocks of the disk, per byte of their tar file.
_ROOM = 1.1
_ELSEWHERE = "mend that, or move the tar file to where one may write and there is room"


def corpus_folder(folder: Path) -> Path:
    """The folder, made absolute.

    Raises:
        CorpusError: if it is not there.
    """
    if not folder.is_dir():
        raise CorpusError(f"no folder at {folder}; give the folder into which the corpus was unpacked")
    return folder.resolve()


def audio_files(folder: Path) -> Iterator[Path]:
    """Recordings below a folder, sorted; see `audio.folder_content` for what is passed over.

    Raises:
        CorpusError: naming a folder below it that may not be looked into.
    """
    yield from readable_content(folder).recordings


def readable_content(folder: Path) -> FolderContent:
    """What lies in and below a folder; nothing where it is not there.

    Raises:
        CorpusError: naming a folder below it that may not be looked into.
    """
    content = folder_content(folder)
    for place, reason in content.unreadable.items():
        if place != folder or place.exists():
            raise CorpusError(
                f"cannot look into {place}: {reason}; make it readable, or move it out of {folder}"
            )
    return content


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


def utf8_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and lines of a text file, with their ends; a byte order mark is taken off.

    Raises:
        CorpusError: naming the first line that is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as fault:
                raise CorpusError(
                    f"{path}, line {number}: not UTF-8 (byte 0x{line[fault.start]:02x}, {fault.reason}); "
                    "convert the file to UTF-8, or fetch it again"
                ) from None
            yield number, text


def tar_files(folder: Path) -> list[Path]:
    """Tar files below a folder, sorted."""
    files = readable_content(folder).files
    return [path for path in files if path.name.endswith(_TAR_ENDINGS) and path.is_file()]


def unpacked_folder(archive: Path) -> Path:
    """The folder beside a tar file, named by it, that holds what was in it."""
    ending = next(ending for ending in _TAR_ENDINGS if archive.name.endswith(ending))
    return archive.with_name(archive.name.removesuffix(ending))


def unpack_all(archives: Sequence[Path]) -> int:
    """Unpacks each tar file into `unpacked_folder`, unless that is there; how many it unpacked.

    A tar file is unpacked aside and its folder then renamed, so that a folder is there whole or not at all,
    and what was stopped goes on. A tar file whose files all lie beside it is passed over as unpacked.

    Raises:
        CorpusError: if one cannot be read to its end or holds more than files and folders, there is no room
            for all of them, or a folder cannot be written.
    """
    waiting = [archive for archive in archives if not unpacked_folder(archive).is_dir()]
    if not waiting:
        return 0
    if not hasattr(tarfile, "data_filter"):
        raise CorpusError("to unpack tar files safely takes Python 3.11.4 or later; unpack them yourself")
    needed = _ROOM * sum(archive.stat().st_size for archive in waiting)
    free = shutil.disk_usage(waiting[0].parent).free
    if needed > free:
        raise CorpusError(
            f"unpacking {len(waiting)} tar files takes about {needed / 1e9:.1f} GB beside them, and "
            f"{waiting[0].parent} has {free / 1e9:.1f} GB free; free space, or move some tar files away"
        )
    return sum(_unpack(archive) for archive in waiting)


def _unpack(archive: Path) -> bool:
    """Unpacks one tar file; False if its files lie beside it."""
    folder = unpacked_folder(archive)
    partial = folder.with_name(PARTIAL + folder.name)
    if not os.access(archive.parent, os.W_OK | os.X_OK) or folder.exists():
        fault = "a file has that name" if folder.exists() else "one may not write there"
        raise CorpusError(f"cannot unpack {archive} into {folder}: {fault}; {_ELSEWHERE}")
    try:
        # Opened as what it is called: else a fault is reported in a line for each kind of compression.
        with tarfile.open(archive, "r:gz" if archive.suffix == ".gz" else "r:") as tar:
            members = tar_members(archive, tar)
            if all((archive.parent / member.name).is_file() for member in members if member.isfile()):
                return False
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            tar.extractall(partial, members, filter="data")
        # A folder of the same name in the tar file is the one that is wanted, not one inside it.
        inner = partial / folder.name
        (inner if inner.is_dir() and len(list(partial.iterdir())) == 1 else partial).rename(folder)
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as fault:
        raise CorpusError(f"{archive} cannot be unpacked: {fault}; fetch it again") from None
    except OSError as fault:
        raise CorpusError(
            f"cannot unpack {archive} into {folder}: {fault.strerror or fault}; {_ELSEWHERE}"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def tar_members(archive: Path, tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """What a tar file holds; tarfile itself takes a damaged entry, or a cut between two, for the end."""
    members = tar.getmembers()
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it ends or is damaged after {len(members)} entries")
    if odd := [member.name for member in members if not (member.isfile() or member.isdir())]:
        raise CorpusError(
            f"{archive} holds {odd[0]!r}, neither a file nor a folder; nothing of it is unpacked"
        )
    return members


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
