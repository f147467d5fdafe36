"""A corpus from its owner's address to a folder that `corpus prepare` reads: whole, or not there."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from voxstrata.corpora.fetching import PARTIAL, WAITS_S, fetch, read_text
from voxstrata.corpora.files import tar_members
from voxstrata.corpora.published import PublishedCorpus, RemoteFile
from voxstrata.documents import parse_json
from voxstrata.errors import CorpusError
from voxstrata.runs import folder_lock, written_whole

#: Receives bytes that are here, bytes in all, and what is done.
Progress = Callable[[int, int, str], None]


def download(
    corpus: PublishedCorpus,
    out: Path,
    *,
    parts: Sequence[str] = (),
    progress: Progress = lambda done, total, what: None,
    waits_s: Sequence[float] = WAITS_S,
) -> Path:
    """Fetches a corpus and unpacks it.

    What is fetched lies in `.OUT.download` beside the folder until all of it is unpacked, so that the same
    call goes on after a stop.

    Args:
        corpus: which.
        out: new or empty folder.
        parts: of the corpus; its default ones if empty.
        progress: receives how far it is.
        waits_s: see `fetch`.

    Returns:
        The folder that the corpus's reader takes.

    Raises:
        CorpusError: in one line, whatever hinders it; `out` is then as it was.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CorpusError(f"{out} is there already; prepare what it holds, remove it, or name another folder")
    out = out.absolute()
    if corpus.listing is None:
        files = corpus.chosen(tuple(parts))
    else:
        if parts:
            corpus.chosen(tuple(parts))
        files = _listed(corpus.listing, waits_s)
    kept = out.with_name(f".{out.name}.download")
    try:
        with folder_lock(kept):
            _require_room(corpus, files, kept)
            fetched = _fetched(files, kept, progress, waits_s)
            with written_whole(out, error=CorpusError) as folder:
                folder.mkdir()
                for file, path in zip(files, fetched, strict=True):
                    progress(0, len(files), f"unpacking {file.name}")
                    _place(path, folder, file.name)
            shutil.rmtree(kept, ignore_errors=True)
    finally:
        if kept.is_dir() and not any(path.is_file() and path.name != ".lock" for path in kept.rglob("*")):
            shutil.rmtree(kept, ignore_errors=True)
    return out / corpus.inside


def _fetched(
    files: Sequence[RemoteFile], kept: Path, progress: Progress, waits_s: Sequence[float]
) -> list[Path]:
    total, before, fetched = sum(file.size or 0 for file in files), 0, []
    for file in files:

        def advance(here: int, before: int = before, name: str = file.name) -> None:
            progress(before + here, max(total, before + here), name)

        fetched.append(fetch(file, kept, advance=advance, waits_s=waits_s))
        before += fetched[-1].stat().st_size
    return fetched


def download_size(corpus: PublishedCorpus, parts: Sequence[str] = ()) -> int | None:
    """Bytes to fetch; None where only the server knows."""
    if corpus.listing is not None:
        return None
    sizes = [file.size for file in corpus.chosen(tuple(parts))]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _require_room(corpus: PublishedCorpus, files: Sequence[RemoteFile], kept: Path) -> None:
    """Refuses to begin what the disk cannot hold: the files that are still to come, and all unpacked."""
    here = 0
    for file in files:
        for path in (kept / file.name, kept / (file.name + PARTIAL)):
            here += path.stat().st_size if path.is_file() else 0
    size = sum(file.size or 0 for file in files)
    needed, free = max(0, size - here) + corpus.growth * size, shutil.disk_usage(kept).free
    if needed > free:
        raise CorpusError(
            f"{corpus.name} takes about {needed / 1e9:.2f} GB to fetch and unpack, and {kept.parent} has "
            f"{free / 1e9:.2f} GB free; free space, choose another folder, or fetch fewer parts (--part)"
        )


def _listed(address: str, waits_s: Sequence[float]) -> tuple[RemoteFile, ...]:
    """The files that a Dataverse lists (its native API), with its checksums."""
    advice = "its owner has changed it; fetch it by hand, and give its folder to corpus prepare"
    content = parse_json(read_text(address, waits_s=waits_s), address, error=CorpusError, advice=advice)
    server = address.partition("/api/")[0]
    try:
        files = tuple(_remote(server, row) for row in content["data"]["latestVersion"]["files"])
    except (KeyError, TypeError, ValueError) as fault:
        raise CorpusError(
            f"{address} is no list of files as Dataverse gives it ({type(fault).__name__}: {fault}); {advice}"
        ) from None
    names = {file.name for file in files}
    if not files or len(names) != len(files):
        raise CorpusError(f"{address} lists {len(files)} files of {len(names)} names; {advice}")
    return files


def _remote(server: str, row: Any) -> RemoteFile:
    about = row["dataFile"]
    name = PurePosixPath(row.get("directoryLabel") or "") / about["filename"]
    _require_inside(str(name))
    stated = about.get("checksum") or {"type": "MD5", "value": about["md5"]}
    checksum = f"{str(stated['type']).replace('-', '').lower()}:{str(stated['value']).lower()}"
    return RemoteFile(
        f"{server}/api/access/datafile/{int(about['id'])}", str(name), checksum, int(about["filesize"])
    )


def _require_inside(name: str) -> None:
    """Refuses a name that leads out of the folder that it is unpacked in.

    Raises:
        ValueError: naming it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise ValueError(f"{name!r} leads out of the folder")


def _place(path: Path, folder: Path, name: str) -> None:
    """Unpacks a file into a folder, or copies it there.

    Raises:
        CorpusError: if it cannot be unpacked; the file is removed then, so that it is fetched again.
    """
    try:
        if path.name.endswith((".tar.gz", ".tgz", ".tar")):
            with tarfile.open(path, "r:" if path.suffix == ".tar" else "r:gz") as tar:
                tar.extractall(folder, tar_members(path, tar), filter="data")
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    _require_inside(member)
                archive.extractall(folder)
        else:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    except CorpusError:
        path.unlink()
        raise
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, zlib.error) as fault:
        path.unlink()
        raise CorpusError(f"{path.name} cannot be unpacked: {fault}; start again to fetch it anew") from None
