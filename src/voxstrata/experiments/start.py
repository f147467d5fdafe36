"""How a run starts, from the command line or from Python: its recipe, its folder, where it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from voxstrata.config.recipe import Recipe
from voxstrata.errors import RecipeError
from voxstrata.experiments.run import execute
from voxstrata.methods.cuts import limited
from voxstrata.methods.method import Notify
from voxstrata.recipes.reading import read_recipe
from voxstrata.runs import RunFolder
from voxstrata.training.progress import Progress

#: Folder of the runs that are given none.
RUNS = Path("runs")


def planned(
    source: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    limit: int | None = None,
    download: bool = True,
    notify: Notify | None = None,
) -> tuple[Recipe, RunFolder]:
    """The resolved recipe of a run, and its folder.

    Args:
        source: packaged name, YAML file, or the values of a recipe.
        overrides: `KEY=VALUE`, laid over them.
        values: laid over all that.
        out: the run's folder; None: runs/NAME, by the name of the recipe.
        limit: of each corpus at most so many clips a split; None: all.
        download: whether a base that nothing else tells of is fetched.
        notify: receives lines for the user.

    Raises:
        RecipeError: if the recipe is none, or neither it nor `out` tells a folder.
    """
    if out is None:
        if isinstance(source, Mapping):
            raise RecipeError(
                'a recipe that is a mapping has no name; give its run a folder: out="runs/NAME"'
            )
        out = RUNS / Path(source).stem
    recipe = read_recipe(source, overrides, values, download=download, notify=notify)
    if limit is not None:
        if limit < 1:
            raise RecipeError(f"limit is {limit}; at least one clip of each split is needed")
        recipe = limited(recipe, limit)
    return recipe, RunFolder(out)


def start(
    recipe: Any, run: RunFolder, *, notify: Notify, progress: Callable[[Progress], None] | None = None
) -> RunFolder:
    """As `execute`, and says at which step a run goes on that was interrupted."""
    before, steps = _checkpoint_step(run), 0

    def advance(now: Progress) -> None:
        nonlocal steps
        if not steps and now.resumed_at:
            notify(f"resumed at step {now.resumed_at:,} of {now.steps_total:,}")
        steps += 1
        if progress is not None:
            progress(now)

    execute(recipe, run, notify=notify, progress=advance)
    if before and not steps:
        notify(f"resumed at step {before:,}, which was the last one")
    return run


def _checkpoint_step(run: RunFolder) -> int:
    """Steps that the newest checkpoint holds; 0 without one, or in a run that is done."""
    if run.is_complete:
        return 0
    names = (path.name.split("-")[1] for path in run.checkpoints.glob("step-*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)
