"""Uploads: read from a request in bounded memory, limited in size, deleted after the answer."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from voxstrata.errors import VoxstrataError
from voxstrata.serving.answers import Limits, TooLarge

#: Bytes of an upload that are held in memory; what is longer goes to a temporary file.
_IN_MEMORY = 1 << 16
#: Bytes of a form beside its file.
_FORM = 1 << 16
#: An upload that nobody asked an answer for is deleted after these seconds.
KEPT_S = 600.0
_NO_NAME = re.compile(r"[^\w.() -]+")


@dataclass(frozen=True)
class NamedFile:
    """An open file under the name that its sender gave it.

    Args:
        name: for messages and rows.
        file: open for bytes.
    """

    name: str
    file: BinaryIO

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        return self.file.read(count)


def name_of(given: str | None) -> str:
    r"""The name of an upload as one plain file name.

    >>> name_of("../../etc/pass\nwd"), name_of("a b.wav"), name_of(None), name_of("..")
    ('pass_wd', 'a b.wav', 'recording', 'recording')
    """
    last = re.split(r"[/\\]", given or "")[-1]
    return _NO_NAME.sub("_", last)[-80:].strip(". ") or "recording"


async def _limited(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body of a request.

    Raises:
        TooLarge: as soon as it is.
    """
    most = limits.most_bytes + _FORM
    count = 0
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > most:
        raise _too_large(limits)
    async for part in request.stream():
        count += len(part)
        if count > most:
            raise _too_large(limits)
        yield part


def _too_large(limits: Limits) -> TooLarge:
    return TooLarge(
        f"the upload has more than {limits.megabytes:g} MB, the limit here; send a shorter or compressed one"
    )


@asynccontextmanager
async def form_of(request: Request, limits: Limits) -> AsyncIterator[Any]:
    """The form of a request; its files are deleted at the end, whatever happens.

    Raises:
        TooLarge: if it holds more bytes than are taken.
        VoxstrataError: if it is no form.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise VoxstrataError("the request is no form; send multipart/form-data with the recording as `file`")
    parser = MultiPartParser(request.headers, _limited(request, limits), max_files=1, max_fields=40)
    parser.spool_max_size = _IN_MEMORY
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as fault:
        raise VoxstrataError(f"the form cannot be read ({fault}); send one recording as `file`") from None
    try:
        yield form
    finally:
        await form.close()


class Uploads:
    """Files that the page was given, each in a folder of its own until it is answered.

    Args:
        folder: that they lie in.
        limits: what is taken.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits

    def keep(self, file: BinaryIO, name: str) -> Path:
        """Stores an upload, and deletes those that nobody asked for.

        Args:
            file: open for bytes.
            name: that its sender gave it.
        """
        self.sweep(time.time() - KEPT_S)
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir(parents=True)
        path = folder / name_of(name)
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        return path

    @contextmanager
    def opened(self, path: Path) -> Iterator[NamedFile]:
        """An upload, which is deleted at the end, whatever happens.

        Raises:
            VoxstrataError: if it is not there any more.
        """
        try:
            try:
                file = path.open("rb")
            except OSError:
                raise VoxstrataError(
                    f"{path.name} was deleted; uploads wait ten minutes: send it again"
                ) from None
            with file:
                yield NamedFile(path.name, file)
        finally:
            if path.parent.parent == self.folder:
                shutil.rmtree(path.parent, ignore_errors=True)

    def sweep(self, before: float) -> None:
        """Deletes uploads that came before a time, in seconds since the epoch."""
        for folder in self.folder.glob("*"):
            try:
                if folder.is_dir() and folder.stat().st_mtime < before:
                    shutil.rmtree(folder, ignore_errors=True)
            except FileNotFoundError:
                continue
