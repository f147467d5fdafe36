"""Batches of a recipe with several tasks, each from its own corpora."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lhotse.cut import Cut

from voxstrata.batches.clips import TextEncoder
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.batches.task_schedule import TaskBatches, TasksInTurn
from voxstrata.config.recipe import TrainedRecipe
from voxstrata.config.task_use import TaskUse
from voxstrata.errors import CorpusError, RecipeError
from voxstrata.heads.task import EMOTION, Task
from voxstrata.labels import LabelSet, require_one_spelling
from voxstrata.methods.cuts import read_cuts, task_corpora, tasks_of
from voxstrata.methods.sources import Sources
from voxstrata.vocabulary import Vocabulary

#: The field of a task that transcribes.
TRANSCRIPT = "transcript"
#: Fields of tasks that are named as in the paper.
_FIELDS = {"asr": TRANSCRIPT, "ser": EMOTION}


@dataclass(frozen=True)
class TaskSources:
    """Batches of several tasks.

    Args:
        train: in the order of the schedule, without end.
        dev: whole clips, task by task; None where no task has dev clips.
        evaluated: split -> whole clips that predictions are written for, task by task.
        tasks: with their classes.
        vocabulary: characters of the training texts and the recipe's alphabet.
    """

    train: TaskBatches
    dev: TasksInTurn | None
    evaluated: dict[str, TasksInTurn]
    tasks: tuple[Task, ...]
    vocabulary: Vocabulary

    def clips(self) -> dict[str, dict[str, int]]:
        """Task -> split -> clips that are used of it; splits without any are absent."""
        splits = {"train": self.train, "dev": self.dev, **self.evaluated}
        return {
            task.name: {
                split: len(batches.sources[task.name])
                for split, batches in splits.items()
                if batches is not None and task.name in batches.sources
            }
            for task in self.tasks
        }

    def absent_classes(self) -> list[str]:
        """A line for each task with classes that no training clip has."""
        stated = {task.prompt: self.train.sources[task.name].absent_classes() for task in self.tasks}
        return [f"{prompt}: {line}" for prompt, line in stated.items() if line is not None]


#: What a recipe gives its batches from.
AnySources = Sources | TaskSources


class _Unwritten:
    """Texts that are scored as they are, so that no character in them is a fault."""

    def encode(self, text: str) -> list[int]:
        return []


def task_sources(
    recipe: TrainedRecipe, *, vocabulary: Vocabulary | None = None, tokenizer: TextEncoder | None = None
) -> TaskSources:
    """The batches of a recipe with tasks; their labels come from the training clips where it names none.

    Args:
        recipe: of the run.
        vocabulary: characters of the words; None: those of the recipe's alphabet and the training texts.
        tokenizer: turns texts into tokens; None: the vocabulary does.

    Raises:
        RecipeError: if tasks do not go together, one has no corpora, or there is nothing to train on.
        CorpusError: if a task's corpora have not what it needs.
        LabelError: if a label is outside its task's label set, or a text cannot be written.
    """
    _require_corpora(recipe)
    uses = tasks_of(recipe)
    tasks = tuple(_task(recipe, name, use) for name, use in uses.items())
    vocabulary = vocabulary or Vocabulary.of([recipe.data.alphabet, *_texts(recipe)])
    encoder: TextEncoder = tokenizer or vocabulary
    augment = recipe.data.augment
    trained, whole, scored = {}, {}, {}
    for task in tasks:
        use = uses[task.name]
        words = task.labels is None
        options = BatchOptions(
            batch_size=use.batch_size or recipe.data.batch_size,
            seed=recipe.seed,
            labels=task.labels,
            field=EMOTION if words else task.field,
            targets=recipe.data.targets if task.field == EMOTION else "consensus",
            smoothing=recipe.data.smoothing,
            vocabulary=encoder if words else None,
            augment=None if augment.is_off else augment,
            task=task.name,
        )
        trained[task.name] = _source(recipe, task, "train", options)
        whole[task.name] = replace(options, shuffle=False, augment=None)
        scored[task.name] = replace(whole[task.name], vocabulary=_Unwritten() if words else None)
    train = TaskBatches(
        trained,
        {name: use.share for name, use in uses.items()},
        seed=recipe.seed,
        accumulate=recipe.training.accumulate,
    )
    dev = _in_turn(recipe, tasks, "dev", whole)
    found = {split: _in_turn(recipe, tasks, split, scored) for split in ("dev", "test")}
    evaluated = {split: batches for split, batches in found.items() if batches is not None}
    return TaskSources(train, dev, evaluated, tasks, vocabulary)


def field_of(name: str, use: TaskUse) -> str:
    """What of a clip answers a task."""
    return use.field or _FIELDS.get(name, name)


def _require_corpora(recipe: TrainedRecipe) -> None:
    for name, use in tasks_of(recipe).items():
        if not task_corpora(recipe, use):
            raise RecipeError(f"tasks.{name} has no corpora; give tasks.{name}.corpora or data.corpora")


def _task(recipe: TrainedRecipe, name: str, use: TaskUse) -> Task:
    field = field_of(name, use)
    if field == TRANSCRIPT:
        if use.labels is not None:
            raise RecipeError(f"tasks.{name} transcribes and has labels; leave them out, or name its field")
        return Task(name, weight=use.weight)
    if use.labels is not None:
        return Task(name, LabelSet(use.labels), field, use.weight)
    cuts = _cuts(recipe, use, "train")
    stated = {label for cut in cuts if (label := (cut.supervisions[0].custom or {}).get(field))}
    if len(stated) < 2:
        shown = f"only {next(iter(stated))!r}" if stated else "nothing"
        raise CorpusError(
            f"tasks.{name} asks for {field}, and its training clips have {shown} of it; name another field, "
            "or other corpora"
        )
    classes = tuple(sorted(map(str, stated)))
    require_one_spelling(classes, f"tasks.{name}")
    return Task(name, LabelSet(classes), field, use.weight)


def _texts(recipe: TrainedRecipe) -> Iterator[str]:
    for name, use in tasks_of(recipe).items():
        if field_of(name, use) == TRANSCRIPT:
            yield from (cut.supervisions[0].text or "" for cut in _cuts(recipe, use, "train"))


def _cuts(recipe: TrainedRecipe, use: TaskUse, split: str) -> Iterator[Cut]:
    return read_cuts(task_corpora(recipe, use), split)


def _source(recipe: TrainedRecipe, task: Task, split: str, options: BatchOptions) -> BatchSource:
    try:
        return BatchSource(_cuts(recipe, tasks_of(recipe)[task.name], split), options)
    except CorpusError as fault:
        raise CorpusError(f"tasks.{task.name}, {split}: {fault}") from None


def _in_turn(
    recipe: TrainedRecipe, tasks: tuple[Task, ...], split: str, options: dict[str, BatchOptions]
) -> TasksInTurn | None:
    uses = tasks_of(recipe)
    there = [task for task in tasks if next(_cuts(recipe, uses[task.name], split), None) is not None]
    sources = {task.name: _source(recipe, task, split, options[task.name]) for task in there}
    return TasksInTurn(sources) if sources else None
