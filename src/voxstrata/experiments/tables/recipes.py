"""Recipes of a table's runs: layers laid over each other, and what stands in the place of references.

`$corpus.NAME`, `$run.NAME`, `$fold`, `$part` and `$seed` stand for a prepared corpus, another run's folder
and the axes' values; in a synthetic corpus `$lexical_strength` does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from voxstrata.errors import RecipeError
from voxstrata.experiments.tables.sweeps import settings
from voxstrata.experiments.tables.table import Scale, Table
from voxstrata.recipes.reading import merged_values, read_yaml

REFERENCE = re.compile(r"^\$(?:(corpus|run)\.([\w-]+)|(fold|part|seed))$")


def references(value: Any, kind: str) -> set[str]:
    """Names behind `$corpus.` or `$run.` anywhere in a value.

    >>> references({"a": ["$run.asr", {"b": "$corpus.x"}]}, "run")
    {'asr'}
    """
    if isinstance(value, Mapping):
        return set().union(*(references(v, kind) for v in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(references(v, kind) for v in value), set())
    match = REFERENCE.match(value) if isinstance(value, str) else None
    return {match[2]} if match and match[1] == kind else set()


def substitute(value: Any, known: Mapping[str, Any]) -> Any:
    """Puts values in the place of references, e.g. {"$fold": 2, "$run.asr": "runs/asr-1"}.

    Raises:
        RecipeError: for a reference that is not known.
    """
    if isinstance(value, Mapping):
        return {key: substitute(v, known) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(v, known) for v in value]
    if isinstance(value, str) and value.startswith("$"):
        if value not in known:
            raise RecipeError(f"{value} is not known here; there are {', '.join(sorted(known))}")
        return known[value]
    return value


def run_values(table: Table, scale: Scale, name: str) -> dict[str, Any]:
    """A run's recipe before substitution.

    Laid over each other: the recipe, the scale's settings for all and for this recipe, the run's own, and
    the scale's for this run, and the point of its grid.
    """
    group = name.partition(".")[0]
    spec = table.runs[group]
    values = read_yaml(spec.recipe)
    scale_values = scale.set.get("all", {}), scale.set.get(spec.recipe, {})
    point = settings(table.members(scale, group)[name])
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


def content_key(value: Any) -> str:
    """Ten hex digits of the hash of a JSON value.

    >>> content_key({"b": 1, "a": 2}) == content_key({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
