"""What a run is, in a line: its system, its tasks and its corpora."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from voxstrata.reporting.scores import SplitScores

#: System in a recipe -> how a reader calls it.
_SYSTEMS = {
    "finetune": "Fine-tuning",
    "adaltm": "AdaLTM",
    "multitask": "Multi-task learning",
    "late-fusion": "Late fusion",
    "harmonifuse": "HarmoniFuse",
    "pretraining": "Pre-training",
    "statistics": "Acoustic statistics and SVM",
    "text": "Words alone",
}
#: Task in a recipe, or part of the scores -> what is recognised.
TASKS = {
    "ser": "emotions",
    "asr": "words",
    "emotion": "emotions",
    "transcript": "words",
    "dimensions": "ratings",
}
#: The hash behind the name of a corpus that a table prepared.
_KEY = re.compile(r"-[0-9a-f]{10}$")


def run_heading(recipe: Mapping[str, Any], scores: Iterable[SplitScores]) -> str:
    """System, tasks and corpora of a run; what neither recipe nor scores tell is left out.

    >>> corpora = [{"path": "runs/corpora/acted-202aa1efae"}, {"path": "my/own"}]
    >>> run_heading({"system": "finetune", "task": "ser", "data": {"corpora": corpora}}, [])
    'Fine-tuning, emotions: acted and own'

    Args:
        recipe: plain values, unchecked.
        scores: of all splits, which tell the tasks where the recipe does not.
    """
    system = recipe.get("system")
    what = [_SYSTEMS.get(system, system)] if isinstance(system, str) else []
    tasks = list(_tasks(recipe)) or [task for one in scores for task in one.tasks]
    what += [name] if (name := _listed(TASKS.get(task, task) for task in tasks)) else []
    corpora = _listed(_KEY.sub("", Path(path).name) for path in _corpora(recipe))
    return ": ".join(filter(None, (", ".join(what), corpora)))


def _tasks(recipe: Mapping[str, Any]) -> Iterator[str]:
    tasks = recipe.get("tasks")
    if isinstance(tasks, Mapping) and tasks:
        yield from map(str, tasks)
    elif isinstance(recipe.get("task"), str):
        yield recipe["task"]


def _corpora(recipe: Mapping[str, Any]) -> Iterator[str]:
    tasks = recipe.get("tasks")
    holders = [recipe.get("data"), *(tasks.values() if isinstance(tasks, Mapping) else ())]
    for holder in holders:
        uses = holder.get("corpora") if isinstance(holder, Mapping) else None
        for use in uses if isinstance(uses, list) else ():
            if isinstance(use, Mapping) and isinstance(use.get("path"), str):
                yield use["path"]


def _listed(names: Iterable[str]) -> str:
    """Names, once each: a, b and c."""
    found = list(dict.fromkeys(names))
    return " and ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))
