"""What a model with several tasks is asked for: words, or one of a set of classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from voxstrata.errors import RecipeError
from voxstrata.labels import LabelSet

_NAME = re.compile(r"[a-z][a-z0-9_]*")

#: The field of a clip that holds its emotion.
EMOTION = "emotion"


@dataclass(frozen=True)
class Task:
    """One task of several.

    Args:
        name: a word in small letters, e.g. "asr"; its prompt is shown as `<asr>`.
        labels: the classes, in the order of the outputs; None: the answer is the transcript.
        field: what of a clip holds its class, e.g. "emotion", "gender"; of no meaning without labels.
        weight: of its loss.

    Raises:
        RecipeError: if the name is no such word or belongs to torch, or the weight is not positive.
    """

    name: str
    labels: LabelSet | None = None
    field: str = EMOTION
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or hasattr(nn.ParameterDict, self.name) or self.name == "training":
            raise RecipeError(
                f"a task cannot be named {self.name!r}; use another word in small letters, e.g. asr, ser"
            )
        if self.weight <= 0:
            raise RecipeError(
                f"task {self.name} has weight {self.weight}; give a positive one, or leave it out"
            )

    @property
    def prompt(self) -> str:
        """How the prompt is written, e.g. `<asr>`."""
        return f"<{self.name}>"


def check_tasks(tasks: Sequence[Task]) -> dict[str, Task]:
    """Tasks by their names.

    Raises:
        RecipeError: if there is none, or two answer the same.
    """
    if not tasks:
        raise RecipeError("a model needs at least one task; give e.g. asr, or ser with its labels")
    answers = [("transcript" if task.labels is None else task.field) for task in tasks]
    for stated in ([task.name for task in tasks], answers):
        if twice := sorted({name for name in stated if stated.count(name) > 1}):
            raise RecipeError(f"two tasks have or answer {', '.join(twice)}; each needs its own")
    return {task.name: task for task in tasks}
