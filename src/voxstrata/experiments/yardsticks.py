"""Rows without an encoder: acoustic statistics, and the words alone."""

from __future__ import annotations

from pathlib import Path

from voxstrata.batches.batch import Reference
from voxstrata.batches.source import BatchSource
from voxstrata.errors import RecipeError
from voxstrata.methods.build import Say
from voxstrata.methods.sources import Sources
from voxstrata.predictions import Prediction, read_predictions
from voxstrata.methods.baselines.recipes import StatisticsRecipe, TextRecipe, YardstickRecipe
from voxstrata.runs import RunFolder
from voxstrata.methods.baselines.statistics import svm_answers
from voxstrata.methods.baselines.text import text_answers

#: Split -> predictions of its clips.
Answers = dict[str, list[Prediction]]


def yardstick_answers(recipe: YardstickRecipe, sources: Sources, say: Say) -> Answers:
    """Trains a yardstick and answers the clips of each evaluated split.

    Args:
        recipe: of a yardstick.
        sources: of the recipe.
        say: receives lines for the user.

    Raises:
        VoxstrataError: see `svm_answers` and `text_answers`.
    """
    return (
        _by_text(recipe, sources, say) if isinstance(recipe, TextRecipe) else _by_statistics(recipe, sources)
    )


def _by_statistics(recipe: StatisticsRecipe, sources: Sources) -> Answers:
    assert sources.labels is not None
    return svm_answers(
        sources.train.epoch(0),
        {split: source.epoch(0) for split, source in sources.evaluated.items()},
        sources.labels,
        cost=recipe.cost,
        gamma=recipe.gamma,
        speaker_normalized=recipe.speaker_normalized,
    )


def _by_text(recipe: TextRecipe, sources: Sources, say: Say) -> Answers:
    assert sources.labels is not None
    train = _references(sources.train)
    asked = {split: _references(source) for split, source in sources.evaluated.items()}
    for split, references in {"train": train, **asked}.items():
        if wordless := sum(not reference.transcript for reference in references):
            how = "nothing is learned from them" if split == "train" else "they are answered without words"
            say(f"{split}: {wordless} of {len(references)} clips have no transcript, {how}")
    return text_answers(
        train,
        asked,
        sources.labels,
        recognized=None if recipe.transcripts is None else _recognized(Path(recipe.transcripts), list(asked)),
        cost=recipe.cost,
        ngrams=recipe.ngrams,
    )


def _references(source: BatchSource) -> list[Reference]:
    """What is known of a source's clips; no audio is read."""
    return [reference for ids in source.plan(0) for reference in source.without_audio(ids).references]


def _recognized(folder: Path, splits: list[str]) -> dict[str, dict[str, str]]:
    """Split -> clip -> words, from a run or a folder of predictions files."""
    found = {}
    for split in splits:
        places = (RunFolder(folder).predictions(split), folder / f"{split}.jsonl")
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise RecipeError(
                f"transcripts: {folder} has no predictions of {split}; name a finished run that transcribes, "
                f"or a folder with {split}.jsonl"
            )
        found[split] = {
            row.id: row.transcript for row in read_predictions(path) if row.transcript is not None
        }
    return found
