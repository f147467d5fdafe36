"""Which model answers where none is named: the best one on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from voxstrata.backbone.locate import packaged, packaged_names
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError, VoxstrataError, counted
from voxstrata.evaluation.shown import percent
from voxstrata.methods.model_description import DESCRIPTION, read_about
from voxstrata.runs import RunFolder

DEMO_TABLE = Path("tables") / "adaltm-demo"
DEMO_ROW = "joint"
#: Runs of tables are named by their content.
_OF_TABLE = re.compile(r".+-[0-9a-f]{10}")


def best_model(runs: Path) -> tuple[str, str]:
    """The model to take, and which it is, in words.

    One's own runs come first, by UAR on their dev clips, then the demo's main row, then runs of other tables,
    then models that come with the package. Only complete runs with a model of emotions count.

    Args:
        runs: the folder that runs lie in.

    Raises:
        CheckpointError: if there is none.
    """
    done = [run for run in _folders(runs) if RunFolder(run).is_complete and _tells_emotions(run / "model")]
    own = [run for run in done if not _OF_TABLE.fullmatch(run.name)]
    if own:
        return _best(own)
    fault = None
    try:
        return str(demo := demo_model(runs)), f"{demo}, the row {DEMO_ROW!r} of the demo"
    except CheckpointError as missing:
        fault = missing
    if done:
        return _best(done)
    for name in packaged_names():
        folder = packaged(name)
        if folder is not None and _tells_emotions(folder):
            return name, f"{name}, which comes with the package"
    raise fault


def _best(runs: list[Path]) -> tuple[str, str]:
    """The run with the highest UAR on dev; of those without one the newest."""
    run = max(runs, key=_score)
    score = _score(run)[0]
    which = "the newest" if score < 0 else f"UAR {percent(score)} % on dev"
    return str(run), f"{run}, {which} of {counted(len(runs), 'run')} here"


def demo_model(runs: Path) -> Path:
    """The run of the demo's main row.

    Raises:
        CheckpointError: if there was no demo here.
    """
    table = runs / DEMO_TABLE / "table.json"
    if not table.is_file():
        raise CheckpointError(
            f"no model: there is no complete run with emotions in {runs}; run `voxstrata demo` here "
            "first, or give --model RUN"
        )
    advice = "run `voxstrata demo` again, or give --model RUN"
    rows = read_json_object(table, error=CheckpointError, advice=advice).get("rows")
    try:
        runs_of = {row["name"]: row["runs"] for row in rows or ()}
        run: str = runs_of[DEMO_ROW][0]
        return (table.parent / run).resolve()
    except (KeyError, TypeError, IndexError, ValueError):
        raise CheckpointError(f"{table} names no run for the row {DEMO_ROW!r}; {advice}") from None


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return


def _tells_emotions(folder: Path) -> bool:
    """Whether a model folder holds a model with labels; a broken one does not."""
    try:
        return (folder / DESCRIPTION).is_file() and bool(read_about(folder).get("labels"))
    except VoxstrataError:
        return False


def _score(run: Path) -> tuple[float, float]:
    """UAR on dev, -1 where it is not known; and when the run was done."""
    folder = RunFolder(run)
    done = folder.complete.stat().st_mtime if folder.is_complete else 0.0
    try:
        value = folder.scores()["dev"]["emotion"]["uar"]["value"]
        return (float(value), done) if isinstance(value, int | float) else (-1.0, done)
    except (VoxstrataError, KeyError, TypeError):
        return -1.0, done
