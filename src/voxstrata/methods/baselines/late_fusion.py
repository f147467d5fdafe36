"""Late fusion: one head over the concatenated features of several frozen experts.

What merging weights has to be compared with: the same experts, K encoders at inference instead of one. Each
expert has its own weighted sum of layers; trained are these weights and the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from voxstrata.backbone.encoder import load_backbone
from voxstrata.config.head import HeadOptions
from voxstrata.config.recipe import TrainedRecipe
from voxstrata.config.strict import Gigabytes, Name, Text
from voxstrata.config.training import Training
from voxstrata.methods.baselines.parallel_encoders import ParallelEncoders
from voxstrata.methods.building import clip_model
from voxstrata.methods.encoder_models import ClipModel
from voxstrata.methods.fits import BASE, FROZEN_CROP_S, Fit, emotion_defaults
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.frozen_encoder import FrozenEncoderSystem, FrozenLayers, HeadRates
from voxstrata.methods.method import Defaults, Facts, Notify, Parent, TrainedMethod, Work
from voxstrata.methods.model_folder import save_model
from voxstrata.methods.model_kinds import CLIP_KINDS
from voxstrata.methods.sources import Sources, clip_sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.system import System


class LateFusionRecipe(TrainedRecipe):
    """Late fusion, a baseline: one head over the concatenated features of several frozen experts.

    Each expert has its own weighted sum of layers. All must have the same feature size and frame rate. Layer
    weights and head are trained (see `LateFusion`).

    Args:
        experts: name -> run, model folder or checkpoint; at least two.
        architecture: as of `base`, for all experts.
        final_norm: as of `base`, for all experts.
        normalize: as of `base`, for all experts.
        window: as of `base`, for all experts.
        fit_on: "heldout" refuses to train on what an emotion expert was fine-tuned on, as in `adaltm`.
        rates: learning rates.
        head: of emotions.
        cache_gb: disk space in GB for the experts' states, computed once where clips come whole; 0: off.
        training: how long and how to train.
    """

    system: Literal["late-fusion"] = "late-fusion"
    experts: dict[Name, Text] = Field(default_factory=dict)
    architecture: Text | None = None
    final_norm: bool = False
    normalize: bool | None = None
    window: Literal["clip", "30s"] = "clip"
    fit_on: Literal["train", "heldout"] = "train"
    rates: HeadRates = HeadRates()
    head: HeadOptions = HeadOptions()
    cache_gb: Gigabytes = 10.0
    training: Training


class LateFusion(FrozenEncoderSystem):
    """Frozen experts, a layer sum of each, and a head under the model's loss.

    Args:
        model: its encoder is `ParallelEncoders`.
        class_weights: [C], see `losses.class_balanced_weights`; None for equal ones, or no classes.
        rates: learning rates.
    """

    def __init__(self, model: ClipModel, class_weights: Tensor | None, rates: HeadRates) -> None:
        if not isinstance(model.encoder, ParallelEncoders):
            raise TypeError("LateFusion needs a model over ParallelEncoders")
        super().__init__(model, class_weights, rates)
        self.experts: ParallelEncoders = model.encoder

    def summary(self) -> dict[str, float]:
        """Layer weights of each expert; those of one expert sum to 1."""
        weights = iter(self.model.layer_sum.weights.detach().tolist())
        return {
            f"expert_layer_weight/{name}/{layer}": next(weights)
            for name, count in zip(self.experts.names, self.experts.layer_counts, strict=True)
            for layer in range(1, count + 1)
        }


class LateFusionMethod(TrainedMethod[LateFusionRecipe]):
    """How a run fuses experts (see `methods.method`)."""

    recipe = LateFusionRecipe
    stage = "lambda-fit"
    kinds = CLIP_KINDS

    def facts(self, recipe: LateFusionRecipe) -> Facts:
        experts = recipe.experts.items()
        pooled = recipe.head.form == "a"
        return Facts(
            tasks={},
            learns=frozenset({"emotion"}),
            base=None,
            parents=tuple(Parent(name, source, ("experts", name), "encoder") for name, source in experts),
            fitted_on_heldout=recipe.fit_on == "heldout",
            encoders=tuple(recipe.experts.values()),
            new_encoder=None,
            writes_ctc=False,
            resting_steps=0,
            work=Work(encoders=len(experts), still=True, pooled=pooled, cache_gb=recipe.cache_gb),
        )

    def defaults(self, values: Mapping[str, Any]) -> Defaults:
        def fill(fit: Fit) -> dict[str, Any]:
            rates = {"head": fit.frozen_head, "layer_weights": fit.layer_weights}
            return {"rates": rates} | emotion_defaults(fit, values, crop_s=FROZEN_CROP_S)

        experts = values.get("experts")
        named = list(experts.values()) if isinstance(experts, Mapping) else []
        return Defaults(str(named[0]) if named else BASE, fill)

    def sources(self, recipe: LateFusionRecipe) -> Sources:
        return clip_sources(recipe, words=False, classes=recipe.data.targets != "dimensions")

    def build(self, recipe: LateFusionRecipe, sources: AnySources, notify: Notify) -> System:
        assert isinstance(sources, Sources)
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
        hold_against_frames(sources, configs, notify, words=False)
        model, weights = clip_model(recipe, recipe.head, experts, sources, notify)
        return LateFusion(model, weights, recipe.rates)

    def kept(self, recipe: LateFusionRecipe, system: System) -> FrozenLayers:
        assert isinstance(system, LateFusion)
        return FrozenLayers.of(system.model)

    def save(self, system: System, folder: Path) -> None:
        assert isinstance(system, LateFusion)
        save_model(system.model, folder)


METHOD = LateFusionMethod()
