"""Files over HTTP: what is there already is not fetched again, and what is kept has the right checksum."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from voxstrata.corpora.published import RemoteFile
from voxstrata.errors import CorpusError

#: Seconds before each further try that brings no byte more.
WAITS_S = (1.0, 3.0, 9.0)
#: Ends the name of a file that is not whole yet, or not checked.
PARTIAL = ".part"
_TIMEOUT_S = 60.0
_BLOCK = 1 << 18
#: Bytes of the longest list of files.
_LONGEST_LIST = 1 << 26
#: Answers that may be others a little later.
_PASSING = (408, 425, 429, 500, 502, 503, 504)

#: Receives how many bytes of a file are there.
Advance = Callable[[int], None]


class _Broken(Exception):
    """A fault of the network or the server that may pass."""


def fetch(file: RemoteFile, folder: Path, *, advance: Advance, waits_s: Sequence[float] = WAITS_S) -> Path:
    """Fetches a file, or the bytes of it that are not here yet, and checks it.

    Args:
        file: what and from where.
        folder: for it; there it is under its own name once it is whole and checked.
        advance: called as bytes come.
        waits_s: seconds before each further try that brings no byte more.

    Returns:
        Its path.

    Raises:
        CorpusError: if the server is not reached or has no such file, if it is another file than is known, or
            cannot be written. What was fetched stays, unless its checksum is wrong.
    """
    whole = folder / file.name
    if whole.is_file():
        advance(whole.stat().st_size)
        return whole
    partial = whole.with_name(whole.name + PARTIAL)
    with _writing(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
    waits = list(waits_s)
    while True:
        before = _size(partial)
        try:
            _go_on(file, partial, advance)
            break
        except _Broken as fault:
            waits = list(waits_s) if _size(partial) > before else waits
            if not waits:
                raise CorpusError(
                    f"{file.url}: {fault}; check the network, then start the same command again: it goes on "
                    f"after the {_size(partial) / 1e6:.1f} MB of this file that are here"
                ) from None
            time.sleep(waits.pop(0))
    _check(file, partial)
    partial.replace(whole)
    return whole


def read_text(url: str, *, waits_s: Sequence[float] = WAITS_S) -> bytes:
    """What an address answers, as bytes of text.

    Raises:
        CorpusError: if it is not reached, or answers too much.
    """
    waits = list(waits_s)
    while True:
        try:
            with _asked(url, 0) as answer:
                content = b""
                for block in _blocks(answer):
                    content += block
                    if len(content) > _LONGEST_LIST:
                        raise CorpusError(f"{url} answers more than {_LONGEST_LIST / 1e6:.0f} MB, no list")
                return content
        except _Broken as fault:
            if not waits:
                raise CorpusError(
                    f"{url}: {fault}; check the network, then start the same command again"
                ) from None
            time.sleep(waits.pop(0))


def _go_on(file: RemoteFile, partial: Path, advance: Advance) -> None:
    """Adds to a file what it lacks."""
    have = _size(partial)
    if file.size is not None and have == file.size:
        return
    if file.size is not None and have > file.size:
        partial.unlink()
        have = 0
    with _asked(file.url, have) as answer:
        if answer is None:
            # The server has nothing after the bytes that are here: either they are all, or other ones.
            return
        start, total = _extent(answer, have)
        if file.size is not None and total is not None and total != file.size:
            raise CorpusError(
                f"{file.url} has {total:,} bytes and {file.size:,} are known of it: its owner has changed "
                "it; fetch and unpack it by hand, and give its folder to corpus prepare"
            )
        have = start
        with _writing(partial), partial.open("ab" if start else "wb") as out:
            for block in _blocks(answer):
                out.write(block)
                have += len(block)
                advance(have)
    if total is not None and have < total:
        raise _Broken(f"the connection broke after {have:,} of {total:,} bytes")


@contextmanager
def _asked(url: str, start: int) -> Iterator[Any]:
    """The server's answer, from a byte on; None where it has nothing after it."""
    from voxstrata import __version__

    headers = {"User-Agent": f"voxstrata/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as fault:
        fault.close()
        if fault.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            yield None
            return
        if fault.code in _PASSING:
            raise _Broken(f"the server answers {fault.code} ({fault.reason})") from None
        raise CorpusError(
            f"{url}: the server answers {fault.code} ({fault.reason}); look on the owner's page for where it "
            "is now, fetch and unpack it by hand, and give its folder to corpus prepare"
        ) from None
    except urllib.error.URLError as fault:
        raise _Broken(f"no answer ({_reason(fault.reason)})") from None
    except (OSError, http.client.HTTPException) as fault:
        raise _Broken(f"no answer ({_reason(fault)})") from None
    with answer:
        yield answer


def _blocks(answer: Any) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read(_BLOCK)
        except (OSError, http.client.HTTPException) as fault:
            raise _Broken(f"the connection broke ({_reason(fault)})") from None
        if not block:
            return
        yield block


def _extent(answer: Any, asked: int) -> tuple[int, int | None]:
    """At which byte an answer starts, and how many bytes the whole file has."""
    length = answer.headers.get("Content-Length", "")
    count = int(length) if length.isdecimal() else None
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0, count
    stated = answer.headers.get("Content-Range", "").removeprefix("bytes ")
    first, _, rest = stated.partition("-")
    whole = rest.partition("/")[2]
    if first != str(asked):
        raise _Broken(f"asked from byte {asked} on, the server sends {stated or 'another part'}")
    return asked, int(whole) if whole.isdecimal() else None if count is None else asked + count


def _check(file: RemoteFile, partial: Path) -> None:
    algorithm, _, expected = file.checksum.partition(":")
    with _writing(partial), partial.open("rb") as content:
        found = hashlib.file_digest(content, algorithm).hexdigest()
    if found != expected:
        size = _size(partial)
        partial.unlink()
        raise CorpusError(
            f"{file.url}: what came ({size:,} bytes) has the {algorithm} {found} and not {expected}; it is "
            "removed; start again, and if that is the result again, its owner has changed it"
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise CorpusError(
            f"cannot write {path}: {fault.strerror or fault}; free space or choose another folder, then "
            "start the same command again: it goes on"
        ) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(fault: Any) -> str:
    return getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
