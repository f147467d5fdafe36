"""From a recipe to modules and batches. Below here nothing sees a recipe, only plain arguments."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch

from voxstrata.backbone.encoder import SpeechEncoder, build_backbone, load_backbone
from voxstrata.methods.harmonifuse.build import build_harmonifuse
from voxstrata.methods.adaltm.build_joint import build_joint
from voxstrata.methods.frames import hold_against_frames
from voxstrata.experiments.missing_runs import require_runs
from voxstrata.methods.sources import AnySources, Sources
from voxstrata.methods.task_sources import TaskSources
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import EmotionHeadOptions
from voxstrata.labels import DIMENSIONS
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.adaltm.merged import MergedBackbone, engine_for
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.any_recipe import AnyRecipe, TrainedRecipe
from voxstrata.methods.encoder_recipes import AdaLTMRecipe, FinetuneRecipe, LateFusionRecipe, MultitaskRecipe
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.pretraining.recipe import PretrainRecipe
from voxstrata.config.recipe import BaseRecipe
from voxstrata.methods.baselines.recipes import YardstickRecipe
from voxstrata.methods.adaltm.system import AdaLTM, AdaLTMRates, coefficient_reach
from voxstrata.methods.baselines.finetune import ASRFinetune, FinetuneRates, SERFinetune
from voxstrata.methods.frozen_encoder import HeadRates
from voxstrata.methods.baselines.late_fusion import LateFusion
from voxstrata.methods.baselines.multitask import Multitask, MultitaskModel
from voxstrata.methods.pretraining.acoustic_targets import AcousticTargets
from voxstrata.methods.pretraining.system import MaskedPrediction, PretrainingOptions, frame_offset
from voxstrata.methods.pretraining.tiny_encoder import start_front_end, tiny_config
from voxstrata.methods.encoder_models import (
    ClipBackbone,
    ClipModel,
    DimensionModel,
    EmotionModel,
    TranscriptionModel,
)
from voxstrata.system import System
from voxstrata.training.options import FitOptions
from voxstrata.training.seeding import seed_everything

Say = Callable[[str], None]


def build_system(recipe: TrainedRecipe, sources: AnySources, say: Say) -> System:
    """The modules of a recipe; the head's start depends on the recipe's seed only.

    Args:
        recipe: of the run.
        sources: of the recipe; see `hold_against_frames` for what is left out of them.
        say: receives lines for the user.

    Raises:
        VoxstrataError: if clips, encoders and recipe do not fit together.
    """
    require_runs(recipe)
    if isinstance(recipe, HarmoniFuseRecipe):
        assert isinstance(sources, TaskSources)
        return build_harmonifuse(recipe, sources, say)
    if isinstance(sources, TaskSources):
        assert isinstance(recipe, AdaLTMRecipe)
        return _joint(recipe, sources, say)
    if isinstance(recipe, PretrainRecipe):
        return _pretraining(recipe, sources, say)
    if isinstance(recipe, LateFusionRecipe):
        return _late_fusion(recipe, sources, say)
    base = _base(recipe, say)
    hold_against_frames(recipe, sources, [base.model.config], say)
    if isinstance(recipe, AdaLTMRecipe):
        return _adaltm(recipe, base, sources, say)
    if isinstance(recipe, MultitaskRecipe):
        return _multitask(recipe, base, sources, say)
    return _finetune(recipe, base, sources, say)


def _base(recipe: BaseRecipe, say: Say) -> SpeechEncoder:
    base = load_backbone(
        recipe.base,
        architecture=recipe.architecture,
        normalize=recipe.normalize,
        final_norm=recipe.final_norm,
        window=recipe.window,
    )
    say(f"base {recipe.base}: waveforms are {'' if base.normalize else 'not '}normalised")
    return base


def _joint(recipe: AdaLTMRecipe, sources: TaskSources, say: Say) -> System:
    base = _base(recipe, say)
    hold_against_frames(recipe, sources, [base.model.config], say)
    vectors = _vectors(recipe, base, say)
    system = build_joint(recipe, base, vectors, sources, say)
    if system.learns_coefficients:
        _say_reach(recipe, sources, say)
    return system


def _emotion_model(
    recipe: AdaLTMRecipe | FinetuneRecipe | LateFusionRecipe,
    encoder: ClipBackbone,
    sources: Sources,
    say: Say,
) -> tuple[EmotionModel, torch.Tensor]:
    assert sources.labels is not None
    seed_everything(recipe.seed)
    model = EmotionModel(encoder, sources.labels, EmotionHeadOptions(**recipe.head.model_dump()))
    return model, _class_weights(sources, say)


def _class_weights(sources: Sources, say: Say) -> torch.Tensor:
    assert sources.labels is not None
    if (line := sources.train.absent_classes()) is not None:
        say(f"warning: {line}")
    return class_balanced_weights(torch.from_numpy(sources.train.emotion_target_matrix()))


def _clip_model(
    recipe: AdaLTMRecipe | FinetuneRecipe | LateFusionRecipe,
    encoder: ClipBackbone,
    sources: Sources,
    say: Say,
) -> tuple[ClipModel, torch.Tensor | None]:
    """The model of a recipe's targets, and the weights of its classes."""
    if recipe.data.targets != "dimensions":
        return _emotion_model(recipe, encoder, sources, say)
    ratings = torch.from_numpy(sources.train.rating_matrix())
    seed_everything(recipe.seed)
    options = EmotionHeadOptions(**recipe.head.model_dump())
    centre, spread = ratings.mean(0), ratings.std(0, correction=0).clamp_min(1e-3)
    shown = [f"{name} {c:.2f} ± {s:.2f}" for name, c, s in zip(DIMENSIONS, centre, spread, strict=True)]
    say(f"training ratings: {', '.join(shown)}")
    return DimensionModel(encoder, options, centre=centre, spread=spread), None


def _finetune(recipe: FinetuneRecipe, encoder: SpeechEncoder, sources: Sources, say: Say) -> System:
    rates = FinetuneRates(**recipe.rates.model_dump())
    encoder.requires_grad_(True)
    if recipe.task == "ser":
        model, class_weights = _clip_model(recipe, encoder, sources, say)
        return SERFinetune(model, class_weights, rates, freeze_front_end=recipe.freeze_front_end)
    assert sources.vocabulary is not None
    seed_everything(recipe.seed)
    head = CTCHead(encoder.hidden_size, sources.vocabulary)
    return ASRFinetune(TranscriptionModel(encoder, head), rates, freeze_front_end=recipe.freeze_front_end)


def _vectors(recipe: AdaLTMRecipe | MultitaskRecipe, base: SpeechEncoder, say: Say) -> dict[str, TaskVector]:
    vectors = {}
    for name, source in recipe.vectors.items():
        vectors[name] = TaskVector.between(base, source)
        say(f"vector {name}: {vectors[name].coverage()}")
    return vectors


def _multitask(recipe: MultitaskRecipe, encoder: SpeechEncoder, sources: Sources, say: Say) -> System:
    assert sources.labels is not None and sources.vocabulary is not None
    if vectors := _vectors(recipe, encoder, say):
        merged = MergedBackbone(encoder, vectors, granularity="static", init=recipe.init)
        encoder.model.load_state_dict(merged.merged_state())
        say(f"start: the base merged with {', '.join(vectors)}")
    encoder.requires_grad_(True)
    seed_everything(recipe.seed)
    transcriber = CTCHead(encoder.hidden_size, sources.vocabulary)
    # Again, so that either head starts as the same head of other rows does.
    seed_everything(recipe.seed)
    options = EmotionHeadOptions(**recipe.head.model_dump())
    return Multitask(
        MultitaskModel(encoder, sources.labels, transcriber, options),
        _class_weights(sources, say),
        FinetuneRates(**recipe.rates.model_dump()),
        asr_weight=recipe.asr_weight,
        selected_by=recipe.selected_by,
        freeze_front_end=recipe.freeze_front_end,
    )


def _late_fusion(recipe: LateFusionRecipe, sources: Sources, say: Say) -> System:
    experts = ParallelEncoders(
        {
            name: load_backbone(
                source,
                architecture=recipe.architecture,
                normalize=recipe.normalize,
                final_norm=recipe.final_norm,
                window=recipe.window,
            )
            for name, source in recipe.experts.items()
        }
    )
    configs = [expert.model.config for expert in experts.encoders]
    hold_against_frames(recipe, sources, configs, say)
    model, class_weights = _clip_model(recipe, experts, sources, say)
    return LateFusion(model, class_weights, HeadRates(**recipe.rates.model_dump()))


def _adaltm(recipe: AdaLTMRecipe, base: SpeechEncoder, sources: Sources, say: Say) -> System:
    vectors = _vectors(recipe, base, say)
    merged = MergedBackbone(
        base, vectors, granularity=recipe.granularity, init=recipe.init, engine=engine_for(base)
    )
    model, class_weights = _clip_model(recipe, merged, sources, say)
    model.words = recipe.words
    system = AdaLTM(model, class_weights, AdaLTMRates(**recipe.rates.model_dump(exclude={"asr_head"})))
    trained, total = system.trainable_share()
    say(f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%})")
    if vectors and recipe.granularity != "static" and recipe.training.epochs != 0:
        _say_reach(recipe, sources, say)
    return system


def _say_reach(recipe: AdaLTMRecipe, sources: AnySources, say: Say) -> None:
    steps = planned_steps(recipe, sources)
    reach = coefficient_reach(recipe.rates.coefficients, steps, recipe.training.schedule)
    say(f"a coefficient can move by at most about {reach:.3g} in {steps:,} steps")


def _pretraining(recipe: PretrainRecipe, sources: Sources, say: Say) -> System:
    # Crops of a few seconds and narrow heads: there the plain attention is the faster one.
    config = tiny_config(**recipe.encoder.model_dump())
    hold_against_frames(recipe, sources, [config], say)
    encoder = build_backbone(config, seed=recipe.seed, attention="reference")
    clusters = recipe.clusters
    targets = AcousticTargets(clusters.cepstral, clusters.prosodic)
    start_front_end(encoder, level_channels=recipe.encoder.level_channels)
    phonemes = sources.train.options.phonemes or ()
    fitting = [
        (
            batch.waveforms if batch.clean is None else batch.clean,
            batch.lengths,
            encoder.frame_lengths(batch.lengths),
        )
        for batch in islice(sources.train.epoch(0), clusters.fit_batches)
    ]
    targets.fit(fitting, frame_offset(encoder), seed=recipe.seed)
    seed_everything(recipe.seed)
    return MaskedPrediction(
        encoder,
        targets,
        phonemes=len(phonemes),
        options=PretrainingOptions(
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            mask_share=recipe.mask_share,
            visible_weight=recipe.visible_weight,
            phoneme_weight=recipe.phoneme_weight,
        ),
    )


def fit_options(recipe: TrainedRecipe) -> FitOptions:
    """The loop's options of a recipe."""
    return FitOptions(**recipe.training.model_dump(), seed=recipe.seed)


def planned_steps(recipe: AnyRecipe, sources: AnySources) -> int:
    """Optimiser steps if nothing stops the run early; 0 for what has none."""
    if isinstance(recipe, YardstickRecipe):
        return 0
    return fit_options(recipe).total_steps(sources.train.batches_per_epoch())
