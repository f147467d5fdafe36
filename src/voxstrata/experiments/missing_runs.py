"""Runs that a recipe builds on and that are still to be trained."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from voxstrata.backbone.locate import is_missing_run
from voxstrata.config.recipe import Recipe
from voxstrata.errors import CheckpointError
from voxstrata.experiments.parents import base_of, experts_of
from voxstrata.recipes.reading import packaged


def require_run(name: str) -> None:
    """Refuses a run that is not there yet, with the command that trains it, where a packaged recipe does.

    Args:
        name: of a base, expert or task vector.

    Raises:
        CheckpointError: with that command.
    """
    recipe = next((known for known in packaged() if PurePath(known).name == PurePath(name).name), None)
    if recipe is not None and is_missing_run(name):
        raise CheckpointError(
            f"{name} is not there yet; train it first: voxstrata train {recipe} --out {shlex.quote(name)}"
        )


def require_runs(recipe: Recipe) -> None:
    """The same for all that a recipe builds on.

    Raises:
        CheckpointError: for the first that is not there.
    """
    base = base_of(recipe)
    for name in (*([] if base is None else [base]), *experts_of(recipe).values()):
        require_run(name)
