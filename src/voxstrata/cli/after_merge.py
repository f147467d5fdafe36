"""What to type after `voxstrata merge`: a command that works as it is shown."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from voxstrata.cli.program import program
from voxstrata.documents import read_yaml_file
from voxstrata.errors import VoxstrataError

#: Tasks of a run that was fine-tuned -> the recipe that trains a head for them.
_RECIPES = {"ser": "finetune-ser", "asr": "finetune-asr"}


def next_command(folder: Path, experts: Iterable[str]) -> str:
    """The line that shows how to go on with a merged folder.

    A folder that answers by itself is used for a prediction. For an encoder alone a head is trained, the
    encoder frozen, on the corpora of an expert that was trained here.

    Args:
        folder: of the merge.
        experts: the checkpoints that were merged, runs among them.
    """
    from voxstrata.methods.transcribers.published_ctc import find_published
    from voxstrata.methods.transcribers.published_whisper import find_transcriber

    merged = _named(folder)
    try:
        answers = find_published(merged) or find_transcriber(merged)
    except VoxstrataError:
        answers = None
    if answers is not None:
        return f"next: {program()} predict PATH/TO/RECORDINGS --model {shlex.quote(merged)}"
    recipe, corpora = next(filter(None, map(_training_of, experts)), ("finetune-ser", "CORPUS"))
    out = Path("runs") / f"{folder.resolve().name}-{recipe.removeprefix('finetune-')}"
    words = [f"base={merged}", "rates.encoder=0", f"data.corpora={corpora}", "--out", str(out)]
    line = f"next: {program()} train {recipe} {' '.join(map(shlex.quote, words))}"
    what = "a head over the frozen merge, then its scores"
    if corpora == "CORPUS":
        return f"{line}  ({what}; CORPUS is the folder of a prepared corpus: {program()} corpus prepare)"
    return f"{line}  ({what})"


def _named(folder: Path) -> str:
    """The folder as a base is named: what has a packaged model's name needs more than that."""
    from voxstrata.backbone.locate import packaged

    return f".{os.sep}{folder}" if packaged(str(folder)) is not None else str(folder)


def _training_of(expert: str) -> tuple[str, str] | None:
    """Recipe and corpora of an expert that was fine-tuned here; None where they are not here (any more)."""
    from voxstrata.merging.run_base import run_of

    run = run_of(expert)
    try:
        told = read_yaml_file(run.recipe) if run is not None and run.recipe.is_file() else None
    except VoxstrataError:
        return None
    if not isinstance(told, dict):
        return None
    data: Any = told.get("data")
    uses = data.get("corpora") if isinstance(data, dict) else None
    paths = [use.get("path") if isinstance(use, dict) else use for use in uses or ()]
    here = [path for path in paths if isinstance(path, str) and (Path(path) / "corpus.json").is_file()]
    if not here or len(here) < len(paths):
        return None
    shown = here[0] if len(here) == 1 else f"[{', '.join(here)}]"
    return _RECIPES.get(str(told.get("task")), "finetune-ser"), shown
