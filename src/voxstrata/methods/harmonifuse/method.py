"""How a run trains HarmoniFuse: what the runner asks of it, and from its recipe to modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from voxstrata.losses import class_balanced_weights
from voxstrata.methods.building import load_base, tell_tasks, told_share, trained_parameters
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.frozen_encoder import FrozenLayers
from voxstrata.methods.harmonifuse.folder import HARMONIFUSE
from voxstrata.methods.harmonifuse.lm.pretrained import build_lm, load_tokenizer
from voxstrata.methods.harmonifuse.recipe import HarmoniFuseRecipe
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.methods.method import Facts, Notify, TrainedMethod
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.task_sources import AnySources, TaskSources, field_of, task_sources
from voxstrata.system import System
from voxstrata.training.seeding import seed_everything


class HarmoniFuseMethod(TrainedMethod[HarmoniFuseRecipe]):
    """See `methods.method`."""

    recipe = HarmoniFuseRecipe
    stage = "fine-tuning"
    kinds = (HARMONIFUSE,)

    def facts(self, recipe: HarmoniFuseRecipe) -> Facts:
        return Facts(
            tasks=recipe.tasks,
            learns=frozenset(field_of(name, use) for name, use in recipe.tasks.items()),
            base=recipe.base,
            parents=(),
            fitted_on_heldout=False,
            encoders=(recipe.base,),
            new_encoder=None,
            writes_ctc=False,
            resting_steps=0,
            work=None,
        )

    def defaults(self, values: Mapping[str, Any]) -> None:
        return None

    def sources(self, recipe: HarmoniFuseRecipe) -> TaskSources:
        pretrained = recipe.lm.pretrained
        return task_sources(recipe, tokenizer=None if pretrained is None else load_tokenizer(pretrained))

    def build(self, recipe: HarmoniFuseRecipe, sources: AnySources, notify: Notify) -> HarmoniFuse:
        assert isinstance(sources, TaskSources)
        encoder = load_base(recipe, notify)
        hold_against_frames(sources, [encoder.model.config], notify, words=False)
        lm, tokenizer = build_lm(recipe, sources.vocabulary, seed=recipe.seed)
        seed_everything(recipe.seed)
        system = HarmoniFuse(
            encoder,
            lm,
            tokenizer,
            sources.tasks,
            recipe,
            _class_weights(recipe, sources),
            None if sources.dev is None else sources.dev.clips(),
        )
        tell_tasks(sources, notify, prompts=True)
        notify(told_share(trained_parameters(system), sum(p.numel() for p in system.parameters())))
        return system

    def kept(self, recipe: HarmoniFuseRecipe, system: System) -> FrozenLayers | None:
        assert isinstance(system, HarmoniFuse)
        if system.encoder_parameters:
            return None
        return FrozenLayers(system.encoder, "frames")

    def save(self, system: System, folder: Path) -> None:
        assert isinstance(system, HarmoniFuse)
        save_model(system, folder)


METHOD = HarmoniFuseMethod()


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
