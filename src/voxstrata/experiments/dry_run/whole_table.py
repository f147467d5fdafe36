"""A dry run of a table: its corpora where they are prepared, its recipes with what is still to be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from voxstrata.config.recipe import Recipe
from voxstrata.corpora.clip import SPLITS
from voxstrata.corpora.msp_podcast import PAPER_CLIPS
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.synthetic.espeak import require
from voxstrata.errors import VoxstrataError
from voxstrata.experiments.dry_run.corpus_checks import MSP, CorpusCheck, check_release
from voxstrata.experiments.dry_run.estimate import Assumptions
from voxstrata.experiments.dry_run.run import DryRun, dry_run
from voxstrata.experiments.tables.corpora import (
    corpus_folder,
    corpus_source,
    how_to_prepare,
    synthesis_options,
)
from voxstrata.experiments.tables.pieces import Chosen, points
from voxstrata.experiments.tables.planned_runs import order, run_values
from voxstrata.experiments.tables.references import substitute
from voxstrata.experiments.tables.table import Scale
from voxstrata.recipes.reading import validate


def dry_run_table(
    chosen: Chosen,
    *,
    out: Path,
    data: Path | None,
    given: Mapping[str, PreparedCorpus] | None = None,
    assumed: Assumptions | None = None,
) -> DryRun:
    """Checks all runs of a table's scale or a piece of it, without preparing a corpus or reading a weight.

    Args:
        chosen: what would be run.
        out: folder for runs, corpora and tables.
        data: root of the corpora's folders.
        given: corpora that are prepared already, see `given_corpora`.
        assumed: behind the costs; None takes the defaults.

    Raises:
        RecipeError: if there is no such scale or piece, or runs need each other in a circle.
    """
    table, given = chosen.table, given or {}
    faults: list[str] = []
    unprepared: dict[str, Mapping[str, int]] = {}
    releases: dict[str, CorpusCheck] = {}
    runs: dict[str, Recipe] = {}
    folders: dict[str, str] = {}
    for title, variant in chosen.variants.items():
        corpora: dict[str, str] = {}
        for name, spec in variant.corpora.items():
            ready = given.get(name)
            folder = corpus_folder(name, spec, out / "corpora", data) if ready is None else ready.folder
            corpora[f"$corpus.{name}"] = str(folder)
            if not (folder / "corpus.json").is_file() and str(folder) not in unprepared:
                stated, release = _unprepared(name, variant, out, data)
                faults += stated
                if release is not None:
                    releases[str(folder)] = release
                # Of the corpora that readers know, the paper tells of one how many clips it has.
                known_clips = PAPER_CLIPS if spec.reader == MSP else {}
                unprepared[str(folder)] = known_clips if release is None else release.clips
        for label, point in _labelled(variant, title):
            # A run's folder is named by its base's weights, which are not read here.
            known = {**corpora, **point, **{f"$run.{name}": f"$run.{name}{label}" for name in table.runs}}
            for name in order(table, variant):
                try:
                    recipe = validate(substitute(run_values(table, variant, name), known), f"run {name}")
                except VoxstrataError as fault:
                    faults.append(str(fault))
                    continue
                runs[f"{name}{label}"] = recipe
                folders[f"$run.{name}{label}"] = f"{name}{label}"
    return dry_run(
        runs, out, folders=folders, unprepared=unprepared, releases=releases, faults=faults, assumed=assumed
    )


def _labelled(variant: Scale, title: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every point of a variant, with what tells it from the others; "" where there is one only."""
    every = list(points(variant.axes))
    for point in every:
        stated = [f"{key[1:]} {value}" for key, value in point.items() if value is not None]
        parts = [*([title] if title else []), *(stated if len(every) > 1 else [])]
        yield f" ({', '.join(parts)})" if parts else "", point


def _spoken(name: str, synth: dict[str, Any], folder: str) -> tuple[list[str], CorpusCheck | None]:
    """Synthetic speech that the table will speak itself, first of all."""
    try:
        require()
        options = synthesis_options(name, synth)
    except VoxstrataError as fault:
        return [str(fault)], None
    clips = dict(zip(SPLITS, options.clips, strict=True))
    note = "synthetic: `reproduce` speaks it first"
    return [], CorpusCheck(folder, name, clips, {}, "", (note,), prepared=False)


def _unprepared(
    name: str, scale: Scale, out: Path, data: Path | None
) -> tuple[list[str], CorpusCheck | None]:
    """What stands in the way of a corpus that is not there yet, and what can be counted of it."""
    spec = scale.corpora[name]
    if spec.synth is not None:
        return _spoken(name, spec.synth, str(corpus_folder(name, spec, out / "corpora", data)))
    try:
        how = how_to_prepare(name, spec, out / "corpora", data)
    except VoxstrataError as fault:
        return [str(fault)], None
    faults = [f"corpus {name} is not prepared yet; prepare it: {how}"]
    if spec.reader != MSP:
        return faults, None
    try:
        return faults, check_release(corpus_source(name, spec, data), spec)
    except VoxstrataError as fault:
        return [*faults, f"corpus {name} cannot be counted: {fault}"], None
