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
from voxstrata.experiments.tables.pieces import points
from voxstrata.experiments.tables.recipes import content_key, order, run_values, substitute
from voxstrata.experiments.tables.table import Scale, Table
from voxstrata.methods.method import Parent
from voxstrata.methods.registry import method_of
from voxstrata.recipes.reading import validate
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
    """One run at one point of the axes."""

    name: str
    recipe: Recipe
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
            keyed = substitute(values, keys)
            key = content_key(_identity(validate(keyed, f"run {name}"), recipe))
            folder = RunFolder(out / f"{name}-{key}")
            known[f"$run.{name}"], keys[f"$run.{name}"] = str(folder.path), key
            planned.append(PlannedRun(name, recipe, folder, tuple(point.items())))
    return planned


def _identity(keyed: Recipe, recipe: Recipe) -> dict[str, Any]:
    """A recipe whose encoders are named by the hash of their weights (references are hashes already)."""
    # What is allowed changes no result.
    values = keyed.model_dump(mode="json", exclude={"allow_leaks", "fit_on"})
    method = method_of(keyed)
    base = method.facts(recipe).base
    if base is not None and method.facts(keyed).base == base:
        values["base"] = _weights_hash(base, getattr(recipe, "architecture", None))
    # A key that came later is no part of the identity while it has the value that all had before.
    for key, before in _LATER.items():
        if values.get(key) == before:
            del values[key]
    if not values.get("tasks"):
        values.get("rates", {}).pop("asr_head", None)
    if not values.get("training", {}).get("warmup", True):
        del values["training"]["warmup"]
    for use in _uses(values):
        for key, before in _LATER_OF_CORPORA.items():
            if use.get(key) == before:
                del use[key]
    values.pop("cache_gb", None)  # decides what is computed twice, not what comes out
    for parent, real in zip(method.facts(keyed).parents, method.facts(recipe).parents, strict=True):
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
