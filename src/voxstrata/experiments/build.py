"""From a recipe to modules and batches. Below here nothing sees a recipe, only plain arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from lhotse import CutSet
from lhotse.cut import Cut

from voxstrata.backbone.encoder import SpeechEncoder, build_backbone, load_backbone
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import RecipeError
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import EmotionHeadOptions
from voxstrata.labels import LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.merging.merged import MergedBackbone
from voxstrata.merging.task_vector import TaskVector
from voxstrata.recipes.schema import AdaLTMRecipe, AnyRecipe, Data, FinetuneRecipe, PretrainRecipe
from voxstrata.systems.acoustic_targets import AcousticTargets
from voxstrata.systems.adaltm import AdaLTM, AdaLTMRates, coefficient_reach
from voxstrata.systems.finetune import ASRFinetune, FinetuneRates, SERFinetune
from voxstrata.systems.pretraining import MaskedPrediction, frame_offset
from voxstrata.systems.recognition import EmotionModel, TranscriptionModel
from voxstrata.systems.system import System
from voxstrata.systems.tiny_encoder import start_front_end, tiny_wavlm
from voxstrata.training.options import FitOptions
from voxstrata.training.seeding import seed_everything
from voxstrata.vocabulary import Vocabulary

Say = Callable[[str], None]


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


def split_cuts(data: Data, split: str) -> CutSet:
    """The clips of one split over all corpora of a recipe, sorted by id.

    Raises:
        RecipeError: if the recipe names no corpus.
    """
    if not data.corpora:
        raise RecipeError(
            "the recipe names no corpus: add data.corpora, e.g. 'data.corpora=[{path: my/prepared}]'"
        )
    cuts: list[Cut] = []
    for use in data.corpora:
        corpus = PreparedCorpus.load(Path(use.path))
        if split in use.splits and (use.fold is not None or split in corpus.splits):
            cuts.extend(corpus.cuts(split, fold=use.fold))
    return CutSet.from_cuts(sorted(cuts, key=lambda cut: cut.id))


def _emotions(cuts: CutSet) -> list[str]:
    found = (cut.supervisions[0].custom.get("emotion") for cut in cuts)
    return [emotion for emotion in found if emotion is not None]


def build_sources(recipe: AnyRecipe) -> Sources:
    """The batches of a recipe; labels and vocabulary come from its training clips where it names none.

    Raises:
        RecipeError: if there is nothing to train on.
    """
    data = recipe.data
    cuts = {split: split_cuts(data, split) for split in ("train", "dev", "test")}
    labels = vocabulary = None
    if isinstance(recipe, FinetuneRecipe) and recipe.task == "asr":
        texts = [cut.supervisions[0].text for cut in cuts["train"] if cut.supervisions[0].text]
        vocabulary = Vocabulary.of([data.alphabet, *texts])
    elif not isinstance(recipe, PretrainRecipe):
        labels = LabelSet(data.labels) if data.labels else LabelSet.of(_emotions(cuts["train"]))
    options = BatchOptions(
        batch_size=data.batch_size,
        crop_s=data.crop_s,
        seed=recipe.seed,
        labels=labels,
        targets=data.targets,
        vocabulary=vocabulary,
    )
    if isinstance(recipe, PretrainRecipe):
        dev = BatchSource(cuts["dev"], replace(options, shuffle=False)) if len(cuts["dev"]) else None
        return Sources(BatchSource(cuts["train"], options), dev, {})
    whole = replace(options, shuffle=False, crop_s=None)
    dev = BatchSource(cuts["dev"], whole) if len(cuts["dev"]) else None
    # Transcripts are scored as text, so a character outside the vocabulary is no fault there.
    scored = replace(whole, vocabulary=None)
    evaluated = {split: BatchSource(cuts[split], scored) for split in ("dev", "test") if len(cuts[split])}
    return Sources(BatchSource(cuts["train"], options), dev, evaluated, labels, vocabulary)


def build_system(recipe: AnyRecipe, sources: Sources, say: Say) -> System:
    """The modules of a recipe; the head's start depends on the recipe's seed only."""
    if isinstance(recipe, PretrainRecipe):
        return _pretraining(recipe, sources)
    base = load_backbone(recipe.base, normalize=recipe.normalize, final_norm=recipe.final_norm)
    say(f"base {recipe.base}: waveforms are {'' if base.normalize else 'not '}normalised")
    if isinstance(recipe, AdaLTMRecipe):
        return _adaltm(recipe, base, sources, say)
    return _finetune(recipe, base, sources, say)


def _emotion_model(
    recipe: AdaLTMRecipe | FinetuneRecipe,
    encoder: SpeechEncoder | MergedBackbone,
    sources: Sources,
    say: Say,
) -> tuple[EmotionModel, torch.Tensor]:
    assert sources.labels is not None
    seed_everything(recipe.seed)
    model = EmotionModel(encoder, sources.labels, EmotionHeadOptions(**recipe.head.model_dump()))
    weights = class_balanced_weights(torch.from_numpy(sources.train.emotion_target_matrix()))
    if missing := [name for name, weight in zip(sources.labels, weights.tolist(), strict=True) if not weight]:
        say(f"warning: no training clip is {' or '.join(missing)}; such a class is never learned")
    return model, weights


def _finetune(recipe: FinetuneRecipe, encoder: SpeechEncoder, sources: Sources, say: Say) -> System:
    rates = FinetuneRates(**recipe.rates.model_dump())
    encoder.requires_grad_(True)
    if recipe.task == "ser":
        model, class_weights = _emotion_model(recipe, encoder, sources, say)
        return SERFinetune(model, class_weights, rates, freeze_front_end=recipe.freeze_front_end)
    assert sources.vocabulary is not None
    seed_everything(recipe.seed)
    head = CTCHead(encoder.hidden_size, sources.vocabulary)
    return ASRFinetune(TranscriptionModel(encoder, head), rates, freeze_front_end=recipe.freeze_front_end)


def _adaltm(recipe: AdaLTMRecipe, base: SpeechEncoder, sources: Sources, say: Say) -> System:
    vectors = {}
    for name, source in recipe.vectors.items():
        vectors[name] = TaskVector.between(base, source)
        say(f"vector {name}: {vectors[name].coverage()}")
    merged = MergedBackbone(base, vectors, granularity=recipe.granularity, init=recipe.init)
    model, class_weights = _emotion_model(recipe, merged, sources, say)
    system = AdaLTM(model, class_weights, AdaLTMRates(**recipe.rates.model_dump()))
    trained, total = system.trainable_share()
    say(f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%})")
    if vectors and recipe.granularity != "static":
        steps = planned_steps(recipe, sources)
        reach = coefficient_reach(recipe.rates.coefficients, steps, recipe.training.schedule)
        say(f"a coefficient can move by at most about {reach:.3g} in {steps:,} steps")
    return system


def _pretraining(recipe: PretrainRecipe, sources: Sources) -> System:
    encoder = build_backbone(tiny_wavlm(**recipe.encoder.model_dump()), seed=recipe.seed)
    clusters = recipe.clusters
    targets = AcousticTargets(clusters.cepstral, clusters.prosodic)
    start_front_end(encoder, level_channels=recipe.encoder.level_channels)
    fitting = [
        (batch.waveforms, batch.lengths, encoder.frame_lengths(batch.lengths))
        for batch in islice(sources.train.epoch(0), clusters.fit_batches)
    ]
    targets.fit(fitting, frame_offset(encoder), seed=recipe.seed)
    seed_everything(recipe.seed)
    return MaskedPrediction(
        encoder,
        targets,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        mask_share=recipe.mask_share,
        visible_weight=recipe.visible_weight,
    )


def fit_options(recipe: AnyRecipe) -> FitOptions:
    """The loop's options of a recipe."""
    return FitOptions(**recipe.training.model_dump(), seed=recipe.seed)


def planned_steps(recipe: AnyRecipe, sources: Sources) -> int:
    """Optimiser steps if nothing stops the run early."""
    return fit_options(recipe).total_steps(sources.train.batches_per_epoch())
