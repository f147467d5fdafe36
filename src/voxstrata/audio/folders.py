"""What a folder holds: one rule for the readers of corpora and for `predict`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from voxstrata.audio.kinds import AUDIO_SUFFIXES

_SHOWN = 3
#: Folders that hold copies or parts of recordings and none of their own.
_NO_RECORDINGS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


@dataclass(frozen=True)
class FolderContent:
    """What lies in a folder and below it.

    Args:
        files: all that are no hidden ones, each once, sorted: a link to a file, or to a folder, is followed
            where it leads to one that is not there by its own name. Links that lead nowhere are among them.
        unreadable: folders that may not be looked into, and why.
        leading_back: links that lead to what is there already, a loop or not.
        hidden: recordings that are passed over: hidden files, and what lies in hidden folders, such as the
            checkpoints of notebooks.
    """

    files: tuple[Path, ...]
    unreadable: Mapping[Path, str]
    leading_back: tuple[Path, ...]
    hidden: int

    @property
    def recordings(self) -> tuple[Path, ...]:
        """The files that have a suffix of audio."""
        return tuple(path for path in self.files if is_recording(path))

    def account(self, *, others: bool = True) -> str:
        """What of a folder is no recording that is read, in words; empty where that is nothing.

        Args:
            others: count the files with other suffixes too.
        """
        stated = []
        kinds = Counter(path.suffix.lower() or path.name for path in self.files if not is_recording(path))
        if others and kinds:
            names = ", ".join(f"{name} {count:,}" for name, count in kinds.most_common(_SHOWN))
            more = ", ..." if len(kinds) > _SHOWN else ""
            stated.append(f"{kinds.total():,} other files ({names}{more})")
        if self.hidden:
            stated.append(f"{self.hidden:,} hidden recordings")
        if self.leading_back:
            stated.append(
                f"{len(self.leading_back):,} links to what is there already ({_first(self.leading_back)})"
            )
        return "; ".join(stated)


def is_recording(path: Path) -> bool:
    """Whether a file is called as a recording."""
    return path.suffix.lower() in AUDIO_SUFFIXES


def folder_content(folder: Path) -> FolderContent:
    """Looks through a folder and all below it.

    Hidden are names that begin with a dot (macOS' `._name.wav`, `.ipynb_checkpoints`), and folders in which
    systems keep their own copies. The folder itself may have any name.

    Args:
        folder: that is there.
    """
    search = _Search()
    search.look_into(folder)
    # Links last: what has a name of its own keeps it.
    while search.links:
        links, search.links = sorted(search.links), []
        for link in links:
            search.follow(link)
    files = tuple(sorted(search.files))
    return FolderContent(files, search.unreadable, tuple(sorted(search.leading_back)), search.hidden)


class _Search:
    """A search as far as it has come."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.links: list[Path] = []
        self.leading_back: list[Path] = []
        self.unreadable: dict[Path, str] = {}
        self.hidden = 0
        self._seen: set[tuple[int, int]] = set()

    def look_into(self, folder: Path, *, hidden: bool = False) -> None:
        """Notes what lies in a folder, and in those in it that are no links."""
        waiting = [(folder, hidden)]
        while waiting:
            place, inside_hidden = waiting.pop()
            try:
                about = place.stat()
                if (about.st_dev, about.st_ino) in self._seen:
                    continue
                self._seen.add((about.st_dev, about.st_ino))
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError as fault:
                # What is passed over anyway need not be readable.
                if not inside_hidden:
                    self.unreadable[place] = fault.strerror or str(fault)
                continue
            for entry in entries:
                path = place / entry.name
                passed_over = inside_hidden or entry.name.startswith(".") or entry.name in _NO_RECORDINGS
                if entry.is_symlink():
                    if not passed_over:
                        self.links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((path, passed_over))
                elif passed_over:
                    self.hidden += is_recording(path)
                else:
                    self._note(path, entry.inode(), entry.stat(follow_symlinks=False).st_dev)

    def follow(self, link: Path) -> None:
        """Notes what a link leads to, unless that is there already."""
        try:
            about = link.stat()
        except OSError:
            # It leads nowhere, or to itself; who reads it says so.
            self.files.append(link)
            return
        if (about.st_dev, about.st_ino) in self._seen:
            self.leading_back.append(link)
        elif link.is_dir():
            self.look_into(link)
        else:
            self._note(link, about.st_ino, about.st_dev)

    def _note(self, path: Path, inode: int, device: int) -> None:
        self._seen.add((device, inode))
        self.files.append(path)


def _first(paths: tuple[Path, ...]) -> str:
    return ", ".join(map(str, paths[:_SHOWN])) + (", ..." if len(paths) > _SHOWN else "")
