"""The base that a run's own files name: what its task vector belongs to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.backbone.locate import locate, packaged
from voxstrata.documents import read_json_object, read_yaml_file
from voxstrata.errors import CheckpointError, RecipeError, VoxstrataError
from voxstrata.runs import RunFolder

#: From a file of weights in a run's `model/encoder/` up to the run.
_ABOVE = 3
_ADVICE = "put it back, or give model/ alone"


@dataclass(frozen=True)
class RunBase:
    """What a run started from.

    Args:
        run: its folder.
        source: the base: a folder as seen from here, a packaged name, or a hub id.
        fingerprint: of the base's tensors, as they were then; None where the run's version did not note it.
    """

    run: Path
    source: str
    fingerprint: str | None


def run_of(given: str | Path) -> RunFolder | None:
    """The run that a place is of: its folder, or its model in it; None where it is of no run."""
    if packaged(str(given)) is not None:
        return None
    place = Path(os.path.normpath(given))
    for path in (place, *list(place.parents)[:_ABOVE]):
        run = RunFolder(path)
        if path != place and not place.is_relative_to(run.model):
            continue
        if run.provenance.is_file() or run.recipe.is_file():
            return run
    return None


def base_of_run(run: RunFolder) -> str | None:
    """The encoder that a run started from, relative to it or not; None where nothing tells.

    Raises:
        CheckpointError: if its provenance is broken.
    """
    told = _provenance(run).get("base")
    if told is None and run.recipe.is_file():
        try:
            recipe = read_yaml_file(run.recipe)
        except VoxstrataError:
            recipe = None
        told = recipe.get("base") if isinstance(recipe, dict) else None
    return told if isinstance(told, str) else None


def bases_of(given: str | Path) -> Iterator[RunBase]:
    """The base of a run, the base of that where it is a run too, and so on; nothing for what is no run.

    Raises:
        CheckpointError: if the provenance of one is broken.
    """
    seen: set[Path] = set()
    while (run := run_of(given)) is not None and run.path.resolve() not in seen:
        seen.add(run.path.resolve())
        told = base_of_run(run)
        if told is None:
            return
        weights = _provenance(run).get("weights")
        fingerprint = weights.get("base") if isinstance(weights, dict) else None
        given = _from_here(run, told)
        yield RunBase(run.path, given, fingerprint if isinstance(fingerprint, str) else None)


def chosen_base(base: str | None, experts: Mapping[str, str]) -> str:
    """The base of a merge: the given one, else the one that the experts' runs started from.

    Args:
        base: None where none was given.
        experts: name of each vector -> its checkpoint.

    Raises:
        RecipeError: if none was given, and no run, or several of different bases, name one.
    """
    if base is not None:
        return base
    known = {name: next(bases_of(place), None) for name, place in experts.items()}
    found = {name: one.source for name, one in known.items() if one is not None}
    if not found:
        raise RecipeError(
            "there is no base (--base), and no vector is a run that names its own; give --base: what the "
            "experts were fine-tuned from"
        )
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} from {source}" for name, source in found.items())
        raise RecipeError(
            f"the runs started from different bases ({listed}); merge runs of one base, or name it: --base"
        )
    return next(iter(found.values()))


def is_same_base(one: RunBase, given: str, place: Path, fingerprint: Callable[[], str]) -> bool | None:
    """Whether a merge's base is the one that a run started from.

    Args:
        one: of the run.
        given: the merge's base, as it was named.
        place: where that lies.
        fingerprint: of its tensors; asked for where names and places do not decide.

    Returns:
        None where the run's base is not here, and its fingerprint was not noted.
    """
    if one.source == given:
        return True
    try:
        there = locate(one.source, download=False)
        if there.samefile(place):
            return True
    except (CheckpointError, OSError):
        pass
    return None if one.fingerprint is None else one.fingerprint == fingerprint()


def _from_here(run: RunFolder, told: str) -> str:
    """A base as a run names it, seen from the current folder."""
    if packaged(told) is not None:
        return told
    inside = run.path / told
    return os.path.normpath(inside) if inside.exists() else told


def _provenance(run: RunFolder) -> dict[str, Any]:
    if not run.provenance.is_file():
        return {}
    return read_json_object(run.provenance, error=CheckpointError, advice=_ADVICE)
