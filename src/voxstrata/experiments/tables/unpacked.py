"""A table from archives of its runs' answers alone: no recordings, no training.

Runs are found by their keys, as finished runs on disk are: an archive of another recipe, other recordings or
other weights gives no row.
"""

from __future__ import annotations

import glob
import lzma
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.documents import read_json_object
from voxstrata.errors import VoxstrataError
from voxstrata.experiments.tables.corpora import corpus_folder
from voxstrata.experiments.tables.finished import finished_runs, write_table
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.planned_runs import plan
from voxstrata.experiments.tables.table import CorpusSpec
from voxstrata.runs import RunFolder, atomic_write

#: What `write_archive` writes of a run, below the run's name.
_WRITTEN = re.compile(
    r"([\w][\w.-]*)/(recipe\.yaml|provenance\.json|COMPLETE|model/coefficients\.json|predictions/[\w-]+\.jsonl)"
)


@dataclass(frozen=True)
class _Archived:
    """A corpus of archived runs: what its runs were keyed by."""

    folder: Path
    fingerprint: str


def table_of_archives(chosen: Chosen, archives: Iterable[str], out: Path) -> Path:
    """Writes the table of what archives hold; rows and folds that they lack read "not run".

    Args:
        chosen: what is shown.
        archives: files that `reproduce --archive` wrote, folders of them, or patterns of either.
        out: folder for tables; what is unpacked lies in the table's folder.

    Returns:
        The table's folder.

    Raises:
        VoxstrataError: if an archive cannot be read, two differ in a run, or they hold no run of the table.
    """
    folder = out / "tables" / chosen.name
    runs = folder / "answers"
    shutil.rmtree(runs, ignore_errors=True)
    unpack(_files(archives), runs)
    found = {run: read_json_object(run.provenance) for run in _runs_in(runs)}
    prints = _fingerprints(found.values())
    planned = {}
    for title, variant in chosen.variants.items():
        corpora = _corpora(variant.corpora, prints)
        planned[title] = finished_runs(plan(chosen.table, variant, corpora, runs))
    shown = {run.folder.path for of_variant in planned.values() for run in of_variant}
    write_table(chosen, planned, folder, _about([about for run, about in found.items() if run.path in shown]))
    return folder


def _files(archives: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for pattern in archives:
        places = [Path(place) for place in sorted(glob.glob(pattern))]  # noqa: PTH207 - patterns may be absolute
        files = [
            file
            for place in places
            for file in (sorted(place.glob("*.tar.xz")) if place.is_dir() else [place])
        ]
        if not files:
            raise VoxstrataError(
                f"--answers {pattern}: no archive is there; name files that `voxstrata reproduce --archive` "
                "wrote, or a folder of them"
            )
        found += files
    return list(dict.fromkeys(found))


def unpack(archives: Sequence[Path], into: Path) -> None:
    """Writes the runs of archives into a folder.

    Args:
        archives: files that `write_archive` wrote.
        into: folder for runs.

    Raises:
        VoxstrataError: if a file is no such archive, or two archives hold other answers of one run.
    """
    origin: dict[Path, Path] = {}
    for archive in archives:
        for name, content in _entries(archive):
            path = into / name
            if path in origin and path.suffix == ".jsonl" and path.read_bytes() != content:
                raise VoxstrataError(
                    f"{archive} and {origin[path]} hold other answers of the same run: {name}; leave one out"
                )
            origin[path] = archive
            atomic_write(path, content)


def _entries(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what an archive holds."""
    advice = "give a file that `voxstrata reproduce --archive` wrote"
    try:
        with tarfile.open(archive, mode="r:xz") as packed:
            for entry in packed:
                file = packed.extractfile(entry) if entry.isfile() else None
                if file is None or not _WRITTEN.fullmatch(entry.name):
                    raise VoxstrataError(
                        f"{archive} holds {entry.name!r}, which is no part of a run; {advice}"
                    )
                yield entry.name, file.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as fault:
        raise VoxstrataError(f"{archive} is no archive of answers ({fault}); {advice}") from None


def _runs_in(folder: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(folder.glob("*/provenance.json"))]


def _fingerprints(provenances: Iterable[dict[str, Any]]) -> dict[str, set[str]]:
    """Name of a prepared corpus's folder -> fingerprints of what lay there."""
    found: dict[str, set[str]] = {}
    for about in provenances:
        data = about.get("data")
        for place, fingerprint in data.items() if isinstance(data, dict) else ():
            found.setdefault(Path(place).name, set()).add(str(fingerprint))
    return found


def _corpora(specs: Mapping[str, CorpusSpec], prints: Mapping[str, set[str]]) -> dict[str, _Archived]:
    """The corpora of the table as the archived runs name them; one that no run used has no fingerprint.

    A folder is named by its corpus and a key: that of a synthetic one follows from its options, that of
    another depends on where its recordings lay. A folder of any other name is the corpus that lacks one.
    """
    exact = {name: corpus_folder(name, spec, Path(), None).name for name, spec in specs.items()}
    of_name = {
        name: {place for place in prints if re.fullmatch(rf"{re.escape(name)}(-[0-9a-f]{{10}})?", place)}
        for name in specs
    }
    others = prints.keys() - set().union(*of_name.values())
    found = {}
    for name, spec in specs.items():
        named = {exact[name]} & prints.keys() if spec.synth is not None else of_name[name] or others
        known = set().union(*(prints[place] for place in named))
        if len(known) > 1:
            there = ", ".join(sorted(named))
            raise VoxstrataError(
                f"the archives hold runs on several corpora that may be {name!r} ({there}); "
                "give --answers the archives of one table and scale only"
            )
        found[name] = _Archived(Path("corpora", exact[name]), next(iter(known), ""))
    return found


def _about(provenances: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """When, by which versions and where archived runs were trained."""

    def texts(key: str) -> list[str]:
        return sorted({str(about[key]) for about in provenances if about.get(key)})

    days = sorted({day[:10] for key in ("started", "finished") for day in texts(key)})
    return {
        "date": " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        "commit": ", ".join(texts("commit")) or None,
        "machine": "; ".join(texts("machine")),
    }
