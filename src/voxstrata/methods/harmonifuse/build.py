"""From a HarmoniFuse recipe to its modules."""

from __future__ import annotations

from collections.abc import Callable

import torch

from voxstrata.backbone.encoder import load_backbone
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.task_sources import TaskSources
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.harmonifuse.lm.decoding import DecodingOptions
from voxstrata.methods.harmonifuse.lm.language_model import SmallLM
from voxstrata.methods.harmonifuse.lm.pretrained import PretrainedLM
from voxstrata.methods.harmonifuse.options import (
    ConnectorOptions,
    EncoderFusionOptions,
    HarmoniFuseOptions,
    HarmoniFuseRates,
    LayerFusionOptions,
    build_lm,
)
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.training.seeding import seed_everything

Say = Callable[[str], None]


def harmonifuse_options(recipe: HarmoniFuseRecipe) -> HarmoniFuseOptions:
    """The model's options of a recipe."""
    lm = recipe.lm
    return HarmoniFuseOptions(
        lm=SmallLM(lm.layers, lm.size, lm.heads, lm.feed_forward, lm.dropout)
        if lm.pretrained is None
        else PretrainedLM(lm.pretrained, lm.rank, lm.scale, lm.adapter_dropout),
        encoder_fusion=EncoderFusionOptions(**recipe.encoder_fusion.model_dump()),
        layer_fusion=LayerFusionOptions(**recipe.layer_fusion.model_dump()),
        connector=ConnectorOptions(**recipe.connector.model_dump()),
        prompt_tokens=recipe.prompt_tokens,
        label_smoothing=recipe.label_smoothing,
        class_answers=recipe.class_answers,
        encoder_trained=recipe.encoder_trained,
        encoder_top=recipe.encoder_top,
        decoding=DecodingOptions(**recipe.decoding.model_dump()),
        rates=HarmoniFuseRates(**recipe.rates.model_dump()),
    )


def build_harmonifuse(recipe: HarmoniFuseRecipe, sources: TaskSources, say: Say) -> HarmoniFuse:
    """The modules of a recipe; what starts at random depends on the recipe's seed only."""
    encoder = load_backbone(
        recipe.base,
        architecture=recipe.architecture,
        normalize=recipe.normalize,
        final_norm=recipe.final_norm,
        window=recipe.window,
    )
    say(f"base {recipe.base}: waveforms are {'' if encoder.normalize else 'not '}normalised")
    hold_against_frames(recipe, sources, [encoder.model.config], say)
    options = harmonifuse_options(recipe)
    lm, tokenizer = build_lm(options, sources.vocabulary, seed=recipe.seed)
    seed_everything(recipe.seed)
    system = HarmoniFuse(
        encoder,
        lm,
        tokenizer,
        sources.tasks,
        options,
        _class_weights(recipe, sources),
        None if sources.dev is None else sources.dev.clips(),
    )
    _tell(system, sources, say)
    return system


def _class_weights(recipe: HarmoniFuseRecipe, sources: TaskSources) -> dict[str, torch.Tensor]:
    if recipe.class_weights == "equal":
        return {}
    return {
        task.name: class_balanced_weights(
            torch.from_numpy(sources.train.sources[task.name].emotion_target_matrix())
        )
        for task in sources.tasks
        if task.labels is not None
    }


def _tell(system: HarmoniFuse, sources: TaskSources, say: Say) -> None:
    for task in sources.tasks:
        source = sources.train.sources[task.name]
        of = "words" if task.labels is None else f"{task.field}: {', '.join(task.labels)}"
        share = sources.train.schedule.share(task.name)
        say(f"{task.prompt} {of}; {len(source):,} clips, {share:.0%} of the steps")
        if sources.dev is not None and task.name not in sources.dev.sources:
            say(f"warning: {task.prompt} has no dev clips; the weights are chosen without it")
    for line in sources.absent_classes():
        say(f"warning: {line}")
    trained = sum(p.numel() for group in system.parameter_groups() for p in group.parameters)
    total = sum(p.numel() for p in system.parameters())
    say(f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%})")
