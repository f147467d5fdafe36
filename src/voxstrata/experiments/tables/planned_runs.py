"""Which runs a scale of a table needs, each with its folder.

A run's folder is keyed by the hash of its resolved recipe, with its parents' keys and its corpora's and
base's fingerprints in the place of paths: what is done is never done twice, and a change re-runs only
what hangs on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, Protocol

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import load_backbone
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.locate import locate
from voxstrata.config.recipe import Recipe
from voxstrata.errors import RecipeError
from voxstrata.experiments.tables.pieces import points
from voxstrata.experiments.tables.references import content_key, references, substitute
from voxstrata.experiments.tables.table import Scale, Table
from voxstrata.methods.method import Facts, Parent
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import merged_values, nested, read_yaml, validate
from voxstrata.runs import RunFolder

#: Keys of recipes that runs of earlier versions were done without.
_LATER: dict[str, Any] = {
    "window": "clip",
    "tasks": {},
    "coefficients": "shared",
    "learn_from": [],
    "start_heads": {},
    "words": "plain",
    "features": "own",
    "rule": "task-arithmetic",
    "compress": None,
    # Runs of earlier versions have no temperature; it changes no label, and so no score of a table.
    "calibrate": True,
}

#: The same, of each corpus in them.
_LATER_OF_CORPORA: dict[str, Any] = {"trained": ["train"], "limit": None}


class CorpusIdentity(Protocol):
    """What a plan needs of a prepared corpus: where it lies, and the hash of its content."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def fingerprint(self) -> str:
        """Hash of its content."""


@dataclass(frozen=True)
class PlannedRun:
    """One run at one point of the axes, with what its method says of its recipe."""

    name: str
    recipe: Recipe
    facts: Facts
    folder: RunFolder
    point: tuple[tuple[str, Any], ...]


def plan(table: Table, scale: Scale, corpora: Mapping[str, CorpusIdentity], out: Path) -> list[PlannedRun]:
    """All runs of a scale, parents before children, each with its folder.

    Raises:
        RecipeError: for a recipe that does not hold.
    """
    paths = {f"$corpus.{name}": str(corpus.folder) for name, corpus in corpora.items()}
    prints = {f"$corpus.{name}": corpus.fingerprint for name, corpus in corpora.items()}
    planned = []
    for point in points(scale.axes):
        known, keys = dict(paths | point), dict(prints | point)
        for name in order(table, scale):
            values = run_values(table, scale, name)
            recipe = validate(substitute(values, known), f"run {name}")
            keyed = validate(substitute(values, keys), f"run {name}")
            facts = method_of(recipe).facts(recipe)
            key = content_key(_identity(keyed, recipe, facts))
            folder = RunFolder(out / f"{name}-{key}")
            known[f"$run.{name}"], keys[f"$run.{name}"] = str(folder.path), key
            planned.append(PlannedRun(name, recipe, facts, folder, tuple(point.items())))
    return planned


def run_values(table: Table, scale: Scale, name: str) -> dict[str, Any]:
    """A run's recipe before substitution.

    Laid over each other: the recipe, the scale's settings for all and for this recipe, the run's own, and
    the scale's for this run, and the point of its grid.
    """
    group = name.partition(".")[0]
    spec = table.runs[group]
    values = read_yaml(spec.recipe)
    scale_values = scale.set.get("all", {}), scale.set.get(spec.recipe, {})
    point = nested(table.members(scale, group)[name])
    for layer in (*scale_values, spec.set, scale.runs.get(group, {}), point):
        values = merged_values(values, layer)
    return merged_values(values, {"seed": "$seed"})


def order(table: Table, scale: Scale) -> list[str]:
    """Names of the runs that the rows need, parents before children.

    Raises:
        RecipeError: if runs need each other in a circle, or one that is not there.
    """
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise RecipeError(f"runs need each other: {' -> '.join((*path, name))}")
        group = name.partition(".")[0]
        if group not in table.runs:
            raise RecipeError(f"run {path[-1]!r} needs {name!r}, which is not there")
        if name not in table.members(scale, group):
            raise RecipeError(
                f"run {path[-1]!r} needs {name!r}, which stands for several runs: it has a grid"
            )
        if name not in done:
            for parent in sorted(references(run_values(table, scale, name), "run")):
                visit(parent, (*path, name))
            done.append(name)

    for row in table.shown(scale):
        for member in table.members(scale, row.run):
            visit(member, ())
    return done


def _identity(keyed: Recipe, recipe: Recipe, facts: Facts) -> dict[str, Any]:
    """A recipe whose encoders are named by the hash of their weights (references are hashes already)."""
    # What is allowed changes no result.
    values = keyed.model_dump(mode="json", exclude={"allow_leaks", "fit_on"})
    of_keys = method_of(keyed).facts(keyed)
    if facts.base is not None and of_keys.base == facts.base:
        values["base"] = _weights_hash(facts.base, getattr(recipe, "architecture", None))
    # A key that came later is no part of the identity while it has the value that all had before.
    for key, before in _LATER.items():
        if key in values and values[key] == before:
            del values[key]
    if not values.get("tasks"):
        values.get("rates", {}).pop("asr_head", None)
    if not values.get("training", {}).get("warmup", True):
        del values["training"]["warmup"]
    for use in _uses(values):
        for key, before in _LATER_OF_CORPORA.items():
            if key in use and use[key] == before:
                del use[key]
    values.pop("cache_gb", None)  # decides what is computed twice, not what comes out
    (values.get("training") or {}).pop("tracker", None)  # looks on, and changes nothing
    for parent, real in zip(of_keys.parents, facts.parents, strict=True):
        # References to runs of the table are hashes already.
        if parent.source == real.source and parent.identity != "path":
            *above, last = parent.place
            reduce(getitem, above, values)[last] = _identity_of(parent, recipe)
    return values


def _identity_of(parent: Parent, recipe: Any) -> str:
    if parent.identity == "encoder":
        return _weights_hash(parent.source, recipe.architecture)
    return _checkpoint_hash(parent.source)


def _uses(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The corpora of a recipe and of its tasks."""
    of_tasks = (task.get("corpora", []) for task in (values.get("tasks") or {}).values())
    return [use for uses in (values.get("data", {}).get("corpora", []), *of_tasks) for use in uses]


@cache
def _weights_hash(source: str, architecture: str | None = None) -> str:
    """Of an encoder that is loaded."""
    return fingerprint(load_backbone(source, architecture=architecture).weights())


@cache
def _checkpoint_hash(source: str) -> str:
    """Of what a task vector is taken from, which needs no architecture: it is held against the base."""
    return open_checkpoint(locate(source)).fingerprint()
