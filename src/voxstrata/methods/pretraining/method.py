"""How a run pre-trains a small encoder: what the runner asks, and from a recipe to modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse import CutSet
from transformers import PretrainedConfig

from voxstrata.backbone.encoder import build_backbone
from voxstrata.batches.phonemes import phoneme_inventory, read_phonemes
from voxstrata.batches.source import BatchSource
from voxstrata.errors import RecipeError
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.method import Facts, Notify, TrainedMethod
from voxstrata.methods.pretraining.acoustic_targets import AcousticTargets
from voxstrata.methods.pretraining.recipe import PretrainRecipe
from voxstrata.methods.pretraining.system import MaskedPrediction, frame_offset
from voxstrata.methods.pretraining.tiny_encoder import start_front_end, tiny_config
from voxstrata.methods.sources import Sources, batch_options, recipe_cuts
from voxstrata.methods.task_sources import AnySources
from voxstrata.system import System
from voxstrata.training.seeding import seed_everything


class Pretraining(TrainedMethod[PretrainRecipe]):
    """See `methods.method`."""

    recipe = PretrainRecipe
    stage = "pretraining"
    kinds = ()

    def facts(self, recipe: PretrainRecipe) -> Facts:
        return Facts(
            tasks={},
            learns=frozenset({"phonemes"} if recipe.phonemes else ()),
            base=None,
            parents=(),
            fitted_on_heldout=False,
            encoders=(),
            new_encoder=_config(recipe),
            writes_ctc=False,
            resting_steps=0,
            work=None,
        )

    def defaults(self, values: Mapping[str, Any]) -> None:
        return None

    def sources(self, recipe: PretrainRecipe) -> Sources:
        cuts = recipe_cuts(recipe)
        phonemes = _phonemes(cuts["train"]) if recipe.phonemes else None
        options = replace(batch_options(recipe), phonemes=phonemes)
        still = replace(options, shuffle=False, augment=None)
        dev = BatchSource(cuts["dev"], still) if len(cuts["dev"]) else None
        return Sources(BatchSource(cuts["train"], options), dev, {})

    def build(self, recipe: PretrainRecipe, sources: AnySources, notify: Notify) -> System:
        assert isinstance(sources, Sources)
        # Crops of a few seconds and narrow heads: there the plain attention is the faster one.
        config = _config(recipe)
        hold_against_frames(sources, [config], notify, words=False)
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
        return MaskedPrediction(encoder, targets, phonemes=len(phonemes), options=recipe)

    def kept(self, recipe: PretrainRecipe, system: System) -> None:
        return None

    def save(self, system: System, folder: Path) -> None:
        assert isinstance(system, MaskedPrediction)
        system.encoder.save(folder / "encoder")


METHOD = Pretraining()


def _config(recipe: PretrainRecipe) -> PretrainedConfig:
    return tiny_config(**recipe.encoder.model_dump())


def _phonemes(cuts: CutSet) -> tuple[str, ...]:
    spoken = (cut.supervisions[0].custom.get("phonemes") for cut in cuts)
    found = phoneme_inventory(read_phonemes(text) for text in spoken if text)
    if not found:
        raise RecipeError(
            "phonemes is true, but no training clip has phonemes; speak a corpus with `corpus synth`, "
            "or give a column `phonemes`"
        )
    return found
