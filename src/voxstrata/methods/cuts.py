"""Which clips a recipe uses, from its prepared corpora."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut

from voxstrata.batches.buckets import drawn
from voxstrata.config.data import CorpusUse, Data, Speakers
from voxstrata.config.recipe import Recipe
from voxstrata.config.task_use import TaskUse
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.speaker_parts import SpeakerShare, taken_speakers
from voxstrata.errors import CorpusError, RecipeError
from voxstrata.methods.registry import method_of


def corpora_in(data: Data, tasks: Mapping[str, TaskUse]) -> tuple[CorpusUse, ...]:
    """All corpora that a recipe with such data and tasks uses, each use once."""
    if not tasks:
        return data.corpora
    return tuple(dict.fromkeys(use for task in tasks.values() for use in task.corpora or data.corpora))


def tasks_of(recipe: Recipe) -> Mapping[str, TaskUse]:
    """The tasks of a recipe with several, each with corpora of its own; of others none."""
    return method_of(recipe).facts(recipe).tasks


def task_corpora(recipe: Recipe, task: TaskUse) -> tuple[CorpusUse, ...]:
    """The corpora of a task: its own, or else those of the recipe."""
    return task.corpora or recipe.data.corpora


def read_cuts(corpora: Iterable[CorpusUse], split: str) -> Iterator[Cut]:
    """The clips of one split over corpora, one at a time.

    Raises:
        RecipeError: if there is no corpus.
    """
    uses = tuple(corpora)
    if not uses:
        raise RecipeError("the recipe names no corpus: add data.corpora, e.g. data.corpora=my/prepared")
    for use in uses:
        corpus = PreparedCorpus.load(Path(use.path))
        for part in _parts(use, split):
            if part not in use.splits or (use.fold is None and part not in corpus.splits):
                continue
            found = partial(_of_part, corpus, use, part)
            yield from found() if use.limit is None else drawn(found, use.limit)


def limited(recipe: Recipe, limit: int) -> Recipe:
    """The recipe with at most so many clips of each split of each corpus."""

    def of(uses: tuple[CorpusUse, ...]) -> tuple[CorpusUse, ...]:
        return tuple(use.model_copy(update={"limit": limit}) for use in uses)

    changes: dict[str, object] = {"data": recipe.data.model_copy(update={"corpora": of(recipe.data.corpora)})}
    if tasks := tasks_of(recipe):
        changes["tasks"] = {
            name: task.model_copy(update={"corpora": of(task.corpora)}) for name, task in tasks.items()
        }
    return recipe.model_copy(update=changes)


def _of_part(corpus: PreparedCorpus, use: CorpusUse, part: str) -> Iterable[Cut]:
    """The clips of one of the corpus's own splits."""
    if use.speakers is None or part != "train":
        return corpus.stream(part, use.fold, use.without_folds)
    cuts = corpus.cuts(part, use.fold, use.without_folds)
    taken: Iterable[Cut] = taken_speakers(cuts, _share(use.speakers), corpus.name)
    return taken


def _parts(use: CorpusUse, split: str) -> tuple[str, ...]:
    """The corpus's own splits that a recipe's split is made of."""
    if split == "train":
        return use.trained
    return () if split in use.trained else (split,)


def split_cuts(data: Data, split: str) -> CutSet:
    """The clips of one split over all corpora of a recipe, sorted by id.

    Raises:
        RecipeError: if the recipe names no corpus.
    """
    return CutSet.from_cuts(sorted(read_cuts(data.corpora, split), key=lambda cut: cut.id))


def cuts_of(recipe: Recipe, split: str) -> Iterator[Cut]:
    """As `clips_of`, for a recipe."""
    return clips_of(recipe.data, tasks_of(recipe), split)


def clips_of(data: Data, tasks: Mapping[str, TaskUse], split: str) -> Iterator[Cut]:
    """The clips of one split over all corpora that a recipe uses, one at a time.

    Where tasks have corpora of their own, a clip that several hold comes once.

    Raises:
        CorpusError: if two different clips of such corpora have one id.
    """
    if not tasks:
        yield from read_cuts(data.corpora, split)
        return
    # Of each clip its recording's path, as a number.
    paths: dict[str, int] = {}
    for cut in read_cuts(corpora_in(data, tasks), split):
        path = hash(cut.recording.sources[0].source)
        known = paths.get(cut.id)
        if known is None:
            paths[cut.id] = path
            yield cut
        elif known != path:
            raise CorpusError(
                f"clip id {cut.id!r} stands for two recordings; ids must be unique over the corpora of all "
                "tasks, prepare one of them under another name"
            )


def _share(speakers: Speakers) -> SpeakerShare:
    return SpeakerShare(
        speakers.part % speakers.of + 1 if speakers.take == "next" else speakers.part,
        speakers.of,
        rest=speakers.take == "rest",
        leave_out_unknown=speakers.unknown == "leave_out",
    )
