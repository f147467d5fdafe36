"""From a recipe to batches: which clips, with which labels and characters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lhotse import CutSet

from voxstrata.batches.augment import Augmentation
from voxstrata.batches.phonemes import phoneme_inventory, read_phonemes
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.errors import RecipeError
from voxstrata.methods.cuts import split_cuts as split_cuts
from voxstrata.experiments.plan_checks import require_classes
from voxstrata.methods.task_sources import TaskSources, build_task_sources
from voxstrata.labels import LabelSet
from voxstrata.methods.any_recipe import AnyRecipe
from voxstrata.methods.encoder_recipes import AdaLTMRecipe, FinetuneRecipe, MultitaskRecipe
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.pretraining.recipe import PretrainRecipe
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


def _emotions(cuts: CutSet) -> list[str]:
    found = (cut.supervisions[0].custom.get("emotion") for cut in cuts)
    return [emotion for emotion in found if emotion is not None]


def _labels(cuts: Mapping[str, CutSet]) -> LabelSet:
    """The classes of the training clips."""
    found = _emotions(cuts["train"])
    require_classes(set(found), {split: len(of_split) for split, of_split in cuts.items()})
    return LabelSet.of(found)


def _tells_words(recipe: AnyRecipe) -> bool:
    return isinstance(recipe, MultitaskRecipe) or (
        isinstance(recipe, FinetuneRecipe) and recipe.task == "asr"
    )


def _tells_classes(recipe: AnyRecipe) -> bool:
    if isinstance(recipe, PretrainRecipe) or recipe.data.targets == "dimensions":
        return False
    return isinstance(recipe, MultitaskRecipe) or not _tells_words(recipe)


def _phonemes(cuts: CutSet) -> tuple[str, ...]:
    spoken = (cut.supervisions[0].custom.get("phonemes") for cut in cuts)
    found = phoneme_inventory(read_phonemes(text) for text in spoken if text)
    if not found:
        raise RecipeError(
            "phonemes is true, but no training clip tells its phonemes; speak a corpus with `corpus synth`, "
            "or give a column `phonemes`"
        )
    return found


#: What a recipe gives its batches from.
AnySources = Sources | TaskSources


def build_sources(recipe: AnyRecipe) -> AnySources:
    """The batches of a recipe; labels and vocabulary come from its training clips where it names none.

    Raises:
        RecipeError: if there is nothing to train on.
    """
    if isinstance(recipe, HarmoniFuseRecipe | AdaLTMRecipe) and recipe.tasks:
        return build_task_sources(recipe)
    data = recipe.data
    cuts = {split: split_cuts(data, split) for split in ("train", "dev", "test")}
    labels = vocabulary = None
    if _tells_words(recipe):
        texts = [cut.supervisions[0].text for cut in cuts["train"] if cut.supervisions[0].text]
        vocabulary = Vocabulary.of([data.alphabet, *texts])
    if _tells_classes(recipe):
        labels = LabelSet(data.labels) if data.labels else _labels(cuts)
    augment = Augmentation(**data.augment.model_dump())
    options = BatchOptions(
        batch_size=data.batch_size,
        crop_s=data.crop_s,
        seed=recipe.seed,
        labels=labels,
        targets=data.targets,
        smoothing=data.smoothing,
        vocabulary=vocabulary,
        require="any" if isinstance(recipe, MultitaskRecipe) and recipe.clips == "any" else "all",
        augment=None if augment.is_off else augment,
    )
    if isinstance(recipe, PretrainRecipe):
        options = replace(options, phonemes=_phonemes(cuts["train"]) if recipe.phonemes else None)
        still = replace(options, shuffle=False, augment=None)
        dev = BatchSource(cuts["dev"], still) if len(cuts["dev"]) else None
        return Sources(BatchSource(cuts["train"], options), dev, {})
    whole = replace(options, shuffle=False, crop_s=None, augment=None)
    dev = BatchSource(cuts["dev"], whole) if len(cuts["dev"]) else None
    # Transcripts are scored as text, so a character outside the vocabulary is no fault there.
    scored = replace(whole, vocabulary=None)
    evaluated = {split: BatchSource(cuts[split], scored) for split in ("dev", "test") if len(cuts[split])}
    return Sources(BatchSource(cuts["train"], options), dev, evaluated, labels, vocabulary)
