"""Where the answers of `predict` go: standard output, one file that is resumed, or a file a recording."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.inference.recognition import Recognition

FORMATS = ("json", "csv", "srt", "vtt", "rttm")
#: Formats that are of one recording, so that each has a file of its own.
SUBTITLES = ("srt", "vtt")


class Output(ABC):
    """Takes answers one by one, and knows which recordings are answered already."""

    #: Recordings that are answered already, and how many of them failed.
    done: frozenset[str] = frozenset()
    failed: int = 0
    #: Whether faults go to a file, where nobody sees them while they come.
    keeps_faults = False
    #: The file, or folder, that is gone on with; None of a stream.
    place: Path | None = None

    def require_same(self, asked: Mapping[str, str]) -> None:
        """Refuses to go on with answers of another model or other options, see `require_same_answers`."""
        from voxstrata.cli.predict_resume import require_same_answers

        if self.place is not None and (line := require_same_answers(self.place, asked, started=self.started)):
            tell(line)

    @property
    def started(self) -> bool:
        """Whether answers are there already."""
        return False

    def left(self, paths: Sequence[Path]) -> list[Path]:
        """The recordings that are not answered yet."""
        from voxstrata.inference.rows import printable

        return [path for path in paths if printable(str(path)) not in self.done]

    @abstractmethod
    def write(self, found: Iterable[Recognition]) -> None:
        """Writes each as soon as it comes."""


def output_for(kind: str | None, out: Path | None, *, timed: bool, recordings: int) -> Output:
    """Where answers of a format go.

    Args:
        kind: one of `FORMATS`; None: lines for people.
        out: a file, or of subtitles a folder; None: standard output.
        timed: a row of CSV for each segment.
        recordings: how many there are to be answered.

    Raises:
        VoxstrataError: if there is no place for them, or a file there is of something else.
    """
    from voxstrata.errors import VoxstrataError

    if kind in SUBTITLES:
        if out is not None:
            return _Subtitles(kind, out)
        if recordings != 1:
            raise VoxstrataError(
                f"--{kind} is of one recording, and there are {recordings}; name a folder for their files "
                "(--out FOLDER)"
            )
        return _Stream(sys.stdout, kind, timed)
    if out is None:
        return _Stream(sys.stdout, kind, timed)
    if kind is None:
        raise VoxstrataError(f"--out {out} needs a format: --json, --csv, --srt, --vtt or --rttm")
    if out.is_dir():
        raise VoxstrataError(f"{out} is a folder; --out of --{kind} names a file")
    return _Appended(out, kind, timed)


class _Stream(Output):
    """Lines on an open stream."""

    def __init__(self, stream: TextIO, kind: str | None, timed: bool) -> None:
        self.stream, self.kind, self.timed = stream, kind, timed
        self.columns: Sequence[str] | None = None
        self.ids: dict[str, str] = {}

    def left(self, paths: Sequence[Path]) -> list[Path]:
        from voxstrata.inference.rows import printable
        from voxstrata.inference.rttm import file_ids

        self.ids = file_ids([printable(str(path)) for path in paths])
        return super().left(paths)

    def write(self, found: Iterable[Recognition]) -> None:
        encoding = self.stream.encoding or "utf-8"
        plain = encoding.lower().replace("-", "") != "utf8"
        for lines in _lines(self.kind, found, self.timed, self.columns, self.ids, ascii_only=plain):
            for line in lines:
                # What the stream cannot spell is escaped.
                print(line.encode(encoding, "backslashreplace").decode(encoding), file=self.stream)
            self.stream.flush()


class _Appended(_Stream):
    """A file that is gone on with: whole rows in it stay, what a kill left of the last one is cut off."""

    def __init__(self, path: Path, kind: str, timed: bool) -> None:
        from voxstrata.cli.predict_resume import kept
        from voxstrata.errors import VoxstrataError

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            before = kept(path, kind, timed)
            self.was_there = path.is_file() and path.stat().st_size > 0
            super().__init__(path.open("a", encoding="utf-8", newline=""), kind, timed)
        except (OSError, UnicodeDecodeError) as fault:
            reason = getattr(fault, "strerror", None) or "it is there, and no text in UTF-8"
            raise VoxstrataError(f"cannot write to {path}: {reason}; name another file") from None
        self.place = path
        self.keeps_faults = kind in ("json", "csv")
        self.done, self.failed, self.columns = before.done, before.failed, before.columns
        self.whole = before.whole
        if self.done:
            tell(
                f"{path} has {len(self.done):,} recordings already, which are kept; remove it to answer anew"
            )

    @property
    def started(self) -> bool:
        return self.was_there

    def left(self, paths: Sequence[Path]) -> list[Path]:
        from voxstrata.inference.rows import printable

        if self.kind != "rttm":
            return super().left(paths)
        super().left(paths)
        return [path for path in paths if self.ids[printable(str(path))] not in self.done]

    def write(self, found: Iterable[Recognition]) -> None:
        with self.stream:
            if self.was_there:
                # What is torn goes when it is sure that this model's answers belong here.
                self.stream.truncate(self.whole)
            super().write(found)


class _Subtitles(Output):
    """A file for each recording; one that is there is kept."""

    def __init__(self, kind: str, folder: Path) -> None:
        from voxstrata.errors import VoxstrataError

        if folder.is_file() or folder.suffix == f".{kind}":
            raise VoxstrataError(
                f"--out {folder} is a file; --out of --{kind} names a folder, for a file of each recording"
            )
        self.kind, self.folder = kind, folder
        self.place = folder
        self.places: dict[str, Path] = {}

    @property
    def started(self) -> bool:
        return any(self.folder.glob(f"*.{self.kind}"))

    def left(self, paths: Sequence[Path]) -> list[Path]:
        from voxstrata.inference.rows import printable

        names = {printable(str(path)): path for path in paths}
        taken: set[str] = set()
        for name in names:
            own = "recording" if name == "-" else Path(name).stem
            # Of two recordings of one name the second keeps its end as well.
            choices = [own, Path(name).name, *(f"{own}-{number}" for number in range(2, len(names) + 2))]
            chosen = next(choice for choice in choices if choice not in taken)
            taken.add(chosen)
            self.places[name] = self.folder / f"{chosen}.{self.kind}"
        there = [name for name, place in self.places.items() if place.is_file()]
        self.done = frozenset(there)
        if there:
            tell(
                f"{self.folder} has {len(there):,} files already, which are kept; remove them to answer anew"
            )
        return [path for name, path in names.items() if name not in self.done]

    def write(self, found: Iterable[Recognition]) -> None:
        from voxstrata.runs import atomic_write

        for one in found:
            for lines in _lines(self.kind, [one], True):
                place = self.places[str(one.row.path)]
                place.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(place, "\n".join(lines) + "\n")


def _lines(
    kind: str | None,
    found: Iterable[Recognition],
    timed: bool,
    columns: Sequence[str] | None = None,
    ids: Mapping[str, str] | None = None,
    *,
    ascii_only: bool = False,
) -> Iterator[list[str]]:
    """The lines of each recording."""
    from voxstrata.inference.printed import readable, table_lines
    from voxstrata.inference.rttm import rttm_lines
    from voxstrata.inference.subtitles import srt_lines, vtt_lines

    if kind == "csv":
        yield from table_lines(found, timed=timed, columns=columns)
        return
    for one in found:
        if kind == "json":
            yield [json.dumps(one.as_dict(), ensure_ascii=ascii_only)]
        elif one.error is not None:
            tell(f"{one.row.path}: {one.error}", "")
        elif kind in ("rttm", *SUBTITLES):
            if not one.segments:
                # Nothing is written of it there.
                tell(f"{one.row.path}: {one.row.note or 'no speech found'}", "")
            if kind == "rttm":
                yield list(rttm_lines(one, (ids or {})[str(one.row.path)]))
                continue
            yield list((srt_lines if kind == "srt" else vtt_lines)(one))
        else:
            yield [readable(one)]
