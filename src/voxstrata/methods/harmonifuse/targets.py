"""What HarmoniFuse is trained towards; one clear line where a batch has not what its task needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from voxstrata.batches.batch import Batch
from voxstrata.errors import LabelError, RecipeError
from voxstrata.heads.task import EMOTION, Task


class TextTargets(NamedTuple):
    """Tokens [B, U] of texts with their end token, and how many [B], the end token counted."""

    tokens: Tensor
    lengths: Tensor


def with_end(tokens: Tensor, lengths: Tensor, eos: int) -> TextTargets:
    """Puts the end token behind each text: [B, U], [B] -> [B, U + 1], [B]."""
    longer = F.pad(tokens, (0, 1))
    return TextTargets(longer.scatter(1, lengths.unsqueeze(1), eos), lengths + 1)


def task_of(batch: Batch, tasks: Mapping[str, Task]) -> Task:
    """The task of a batch; where it names none, the model's only one.

    Raises:
        RecipeError: if the model has not the batch's task, or has several and the batch names none.
    """
    if batch.task is None and len(tasks) == 1:
        return next(iter(tasks.values()))
    if batch.task is None or batch.task not in tasks:
        found = "no task" if batch.task is None else f"the task {batch.task!r}"
        raise RecipeError(f"a batch names {found}; this model has {', '.join(tasks)}; name one of them")
    return tasks[batch.task]


def text_targets(batch: Batch, task: Task, *, eos: int, size: int) -> TextTargets:
    """The transcripts of a batch.

    Args:
        batch: with tokens.
        task: that transcribes, for messages.
        eos: the end token.
        size: tokens in the vocabulary.

    Raises:
        LabelError: if a clip has no transcript, an empty one, or a token outside the vocabulary.
    """
    if batch.tokens is None or batch.token_lengths is None:
        raise LabelError(
            f"a batch for {task.prompt} has no transcripts (clips {_some(batch.ids)}); prepare its corpus "
            "with texts, or leave it out of this task"
        )
    empty = [name for name, count in zip(batch.ids, batch.token_lengths.tolist(), strict=True) if not count]
    if empty:
        raise LabelError(
            f"{len(empty)} clips for {task.prompt} have an empty transcript ({_some(empty)}); leave them out"
        )
    if int(batch.tokens.max()) >= size:
        raise LabelError(
            f"a batch for {task.prompt} holds token {int(batch.tokens.max())}, and the language model has "
            f"{size}; encode transcripts with the tokenizer of this model"
        )
    return with_end(batch.tokens, batch.token_lengths, eos)


def class_targets(batch: Batch, task: Task) -> Tensor:
    """Class targets [B, C] of a batch.

    Raises:
        LabelError: if the batch has none, or as many classes as another label set.
    """
    assert task.labels is not None
    targets = batch.emotion_targets if task.field == EMOTION else batch.class_targets
    if targets is None:
        raise LabelError(
            f"a batch for {task.prompt} has no {task.field} (clips {_some(batch.ids)}); its corpus needs "
            "that field, or is left out of this task"
        )
    if targets.shape[1] != len(task.labels):
        raise LabelError(
            f"a batch for {task.prompt} has targets over {targets.shape[1]} classes; the task has "
            f"{len(task.labels)}: {', '.join(task.labels)}; give its source the same label set"
        )
    return targets


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
