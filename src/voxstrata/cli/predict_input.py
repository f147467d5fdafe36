"""What `predict` is given: recordings, folders, globs, lists of paths, standard input, prepared corpora."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.corpora.prepared import PreparedCorpus

#: Stands for standard input.
DASH = Path("-")
#: Bytes of a list of paths, at most.
_LONGEST_LIST = 1 << 28


def sources_of(paths: Sequence[Path], listed: Path | None) -> list[PreparedCorpus | list[Path]]:
    """What is to be answered, each recording once, in the order given.

    Args:
        paths: recordings, folders, globs, prepared corpora, or `-` for a recording on standard input.
        listed: a file with a path in each line, or `-` for such a list on standard input.

    Raises:
        VoxstrataError: if there is nothing, a pattern fits nothing, or standard input is asked for twice.
    """
    from voxstrata.errors import VoxstrataError

    if not paths and listed is None:
        raise VoxstrataError(
            "nothing to answer; give recordings, folders, `-` for a recording on standard input, or a list "
            "of paths (--files-from)"
        )
    if [*paths, listed].count(DASH) > 1:
        raise VoxstrataError("standard input (-) can be read once; give the other recordings as files")
    groups = [_matching(path) for path in paths]
    groups += [] if listed is None else [list(_listed(listed))]
    alone = sum(map(len, groups)) == 1
    return once([source for group in groups for source in _sources(group, alone)])


def _sources(group: Sequence[Path], alone: bool) -> list[PreparedCorpus | list[Path]]:
    """What paths stand for that were given together: the recordings among them are one source."""
    found: list[PreparedCorpus | list[Path]] = []
    for source in (_source(path, alone) for path in group):
        if found and isinstance(source, list) and isinstance(found[-1], list):
            found[-1] += source
        else:
            found.append(source)
    return found


def _matching(path: Path) -> list[Path]:
    """The path, or where there is none of that name and it is a pattern, what fits it."""
    from voxstrata.errors import AudioError

    text = str(path)
    if path == DASH or not glob.has_magic(text) or os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207, of absolute patterns too
    if not found:
        raise AudioError(f"no file fits {text!r}; give another pattern, or a folder")
    return [Path(name) for name in found]


def _listed(path: Path) -> Iterator[Path]:
    """The paths in a list, a line each; empty lines are passed over."""
    from voxstrata.documents import text_encoding
    from voxstrata.errors import AudioError

    name = "standard input" if path == DASH else str(path)
    try:
        content = sys.stdin.buffer.read(_LONGEST_LIST) if path == DASH else path.read_bytes()
        text = content.decode(text_encoding(content))
    except OSError as fault:
        raise AudioError(f"cannot read the list of paths {name}: {fault.strerror}; give another") from None
    except UnicodeDecodeError:
        # Names of files may be no text.
        text = os.fsdecode(content)
    if "\0" in text:
        raise AudioError(f"{name} is no list of paths; a list has a path in each line (`-` for a recording)")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if not any(lines):
        raise AudioError(f"the list of paths in {name} is empty; write a path in each line")
    return (Path(line) for line in lines if line)


def _source(path: Path, alone: bool) -> PreparedCorpus | list[Path]:
    """What a path stands for: a prepared corpus, or recordings.

    Raises:
        AudioError: if all that was given is one folder, and it holds no recordings.
    """
    from voxstrata.corpora.prepared import CORPUS_FILE, PreparedCorpus
    from voxstrata.errors import AudioError

    if path == DASH:
        return [path]
    try:
        if (path / CORPUS_FILE).is_file():
            return PreparedCorpus.load(path)
        return recordings(path) if path.is_dir() else [path]
    except AudioError:
        if alone:
            raise
    except OSError:
        pass
    # The row of a folder without recordings, or one that may not be looked into, says so.
    return [path]


def once(sources: Iterable[PreparedCorpus | list[Path]]) -> list[PreparedCorpus | list[Path]]:
    """Each recording and each corpus once, where it comes first, and says what came again.

    A link is what it leads to. Files with the same content are several recordings.
    """
    seen: set[str] = set()
    again: list[Path] = []

    def new(path: Path) -> bool:
        place = os.path.realpath(path)
        if place in seen:
            again.append(path)
            return False
        seen.add(place)
        return True

    kept: list[PreparedCorpus | list[Path]] = []
    for source in sources:
        if not isinstance(source, list):
            kept += [source] if new(source.folder) else []
        elif left := list(filter(new, source)):
            kept.append(left)
    if again:
        more = ", ..." if len(again) > 3 else ""
        tell(f"{len(again)} given again, answered once: {', '.join(map(str, again[:3]))}{more}")
    return kept


def recordings(folder: Path) -> list[Path]:
    """The recordings in a folder and below it, sorted; says what is passed over.

    Folders below it that may not be looked into stand among them, to fail by their own names.

    Raises:
        AudioError: if there are none.
    """
    from voxstrata.audio import AUDIO_SUFFIXES, folder_content
    from voxstrata.errors import AudioError

    content = folder_content(folder)
    found = sorted([*content.recordings, *content.unreadable])
    stated = content.account()
    if not found:
        held = f"; it has {stated}" if stated else ""
        raise AudioError(f"{folder} holds no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}){held}")
    if stated:
        tell(f"{folder}: passed over: {stated}")
    return found
