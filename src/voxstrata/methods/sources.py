"""From a recipe to batches: which clips, with which labels and characters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from lhotse import CutSet

from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.config.recipe import Recipe
from voxstrata.errors import CorpusError
from voxstrata.labels import LabelSet, require_one_spelling
from voxstrata.methods.cuts import split_cuts
from voxstrata.vocabulary import Vocabulary


@dataclass(frozen=True)
class Sources:
    """Batches of a recipe.

    Args:
        train: shuffled, cropped.
        dev: whole clips, for the validation loss; None where no corpus has a dev split.
        evaluated: split -> whole clips that predictions are written for.
        labels: classes; None for tasks without.
        vocabulary: characters; None for tasks without.
    """

    train: BatchSource
    dev: BatchSource | None
    evaluated: dict[str, BatchSource]
    labels: LabelSet | None = None
    vocabulary: Vocabulary | None = None


def clip_sources(
    recipe: Recipe, *, words: bool, classes: bool, require: Literal["any", "all"] = "all"
) -> Sources:
    """The batches of a recipe without tasks of their own, from `data.corpora`.

    Labels and vocabulary come from the training clips where the recipe names none.

    Args:
        recipe: of the run.
        words: whether batches bring the characters of each clip.
        classes: whether they bring its emotion as a class.
        require: whether a training clip must have all that is asked for, or any of it.

    Raises:
        RecipeError: if the recipe names no corpus.
        CorpusError: if there is nothing to train on.
    """
    data = recipe.data
    cuts = recipe_cuts(recipe)
    labels = vocabulary = None
    if words:
        texts = [cut.supervisions[0].text for cut in cuts["train"] if cut.supervisions[0].text]
        vocabulary = Vocabulary.of([data.alphabet, *texts])
    if classes:
        labels = LabelSet(data.labels) if data.labels else _labels(cuts)
    options = replace(batch_options(recipe), labels=labels, vocabulary=vocabulary, require=require)
    whole = replace(options, shuffle=False, crop_s=None, augment=None)
    dev = BatchSource(cuts["dev"], whole) if len(cuts["dev"]) else None
    # Transcripts are scored as text, so a character outside the vocabulary is no fault there.
    scored = replace(whole, vocabulary=None)
    evaluated = {split: BatchSource(cuts[split], scored) for split in ("dev", "test") if len(cuts[split])}
    return Sources(BatchSource(cuts["train"], options), dev, evaluated, labels, vocabulary)


def recipe_cuts(recipe: Recipe) -> dict[str, CutSet]:
    """The clips of `data.corpora`, by split.

    Raises:
        RecipeError: if the recipe names no corpus.
    """
    return {split: split_cuts(recipe.data, split) for split in ("train", "dev", "test")}


def batch_options(recipe: Recipe) -> BatchOptions:
    """How a recipe's training clips are batched, its targets left out."""
    data = recipe.data
    return BatchOptions(
        batch_size=data.batch_size,
        crop_s=data.crop_s,
        seed=recipe.seed,
        targets=data.targets,
        smoothing=data.smoothing,
        augment=None if data.augment.is_off else data.augment,
    )


def require_classes(found: Collection[str], splits: Mapping[str, int]) -> None:
    """Refuses to learn emotions from clips that do not tell two of them.

    Args:
        found: distinct emotions of the training clips.
        splits: split -> its clips.

    Raises:
        CorpusError: saying what there is, and what to do.
    """
    if len(found) > 1:
        return
    if not splits.get("train"):
        there = ", ".join(f"{split} {count}" for split, count in splits.items() if count) or "no clip at all"
        raise CorpusError(
            f"there is no training clip ({there}); give the corpus a train split, or name one with "
            "data.corpora"
        )
    stated = f"only {next(iter(found))!r}" if found else "no emotion"
    raise CorpusError(
        f"the {splits['train']} training clips have {stated}, and at least two classes are needed; prepare "
        "the corpus "
        "with a column emotion, name another in data.corpora, or train on its words: finetune-asr"
    )


def _labels(cuts: Mapping[str, CutSet]) -> LabelSet:
    """The classes of the training clips."""
    found = list(_emotions(cuts["train"]))
    require_classes(set(found), {split: len(of_split) for split, of_split in cuts.items()})
    require_one_spelling(sorted(set(found)), "training clips")
    return LabelSet.of(found)


def _emotions(cuts: CutSet) -> Iterator[str]:
    for cut in cuts:
        if (emotion := cut.supervisions[0].custom.get("emotion")) is not None:
            yield emotion
