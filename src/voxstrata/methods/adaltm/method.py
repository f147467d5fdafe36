"""How a run learns a merge: what the runner asks of AdaLTM, and from its recipe to modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from voxstrata.batches.cached import KeptStates
from voxstrata.errors import RecipeError
from voxstrata.heads.ctc import CTCHead
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.adaltm.joint import EMOTIONS, TASKS, WORDS, JointAdaLTM, JointModel
from voxstrata.methods.adaltm.lean.front import Front
from voxstrata.methods.adaltm.merged import MergedBackbone, engine_for
from voxstrata.methods.adaltm.per_task import PER_TASK
from voxstrata.methods.adaltm.recipe import AdaLTMRecipe, CompressOptions
from voxstrata.methods.adaltm.system import AdaLTM, coefficient_reach
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.building import (
    clip_model,
    load_base,
    load_vectors,
    tell_tasks,
    told_share,
    vector_parents,
)
from voxstrata.methods.encoder_models import EmotionModel, MultitaskModel, TranscriptionModel
from voxstrata.methods.fits import BASE, FROZEN_CROP_S, Fit, emotion_defaults
from voxstrata.methods.frames import hold_against_frames
from voxstrata.methods.frozen_encoder import FrozenLayers
from voxstrata.methods.method import Defaults, Facts, Notify, Parent, TrainedMethod, Work
from voxstrata.methods.model_folder import Model, find_model, load_model, save_model, vocabulary_of
from voxstrata.methods.model_kinds import CLIP_KINDS, MULTITASK
from voxstrata.methods.sources import clip_sources
from voxstrata.methods.task_sources import AnySources, TaskSources, task_sources
from voxstrata.runs import write_json
from voxstrata.system import System
from voxstrata.training.seeding import seed_everything


class AdaLTMMethod(TrainedMethod[AdaLTMRecipe]):
    """AdaLTM, from emotions alone or from both tasks (see `methods.method`)."""

    recipe = AdaLTMRecipe
    stage = "lambda-fit"
    kinds = (*CLIP_KINDS, MULTITASK, PER_TASK)

    def facts(self, recipe: AdaLTMRecipe) -> Facts:
        experts = vector_parents(recipe.vectors)
        known = {parent.source for parent in experts}
        heads = (
            Parent(f"{task} head", source, ("start_heads", task), "path")
            for task, source in recipe.start_heads.items()
            if source not in known
        )
        work = Work(
            vectors=len(recipe.vectors),
            still=not recipe.vectors or recipe.granularity == "static",
            # A transcription head reads every frame.
            pooled=recipe.head.form == "a" and not recipe.tasks,
            cache_gb=recipe.cache_gb,
        )
        return Facts(
            tasks={str(name): use for name, use in recipe.tasks.items()},
            learns=frozenset({"emotion", "transcript"} if recipe.tasks else {"emotion"}),
            base=recipe.base,
            parents=(*experts, *heads),
            fitted_on_heldout=recipe.fit_on == "heldout",
            encoders=(recipe.base,),
            new_encoder=None,
            writes_ctc=bool(recipe.tasks),
            resting_steps=0,
            work=work,
        )

    def defaults(self, values: Mapping[str, Any]) -> Defaults:
        def fill(fit: Fit) -> dict[str, Any]:
            rates = {
                "head": fit.frozen_head,
                "layer_weights": fit.layer_weights,
                "coefficients": fit.coefficients,
            }
            if values.get("tasks"):
                return {"rates": rates | {"asr_head": fit.ctc_head}} | emotion_defaults(fit, values)
            return {"rates": rates} | emotion_defaults(fit, values, crop_s=FROZEN_CROP_S)

        return Defaults(str(values.get("base", BASE)), fill)

    def sources(self, recipe: AdaLTMRecipe) -> AnySources:
        if not recipe.tasks:
            return clip_sources(recipe, words=False, classes=recipe.data.targets != "dimensions")
        start = recipe.start_heads.get("asr")
        # Batches can be counted before the head is trained; when modules are built it is missed.
        trained = None if start is None or find_model(start) is None else vocabulary_of(start)
        return task_sources(recipe, vocabulary=trained)

    def build(self, recipe: AdaLTMRecipe, sources: AnySources, notify: Notify) -> System:
        base = load_base(recipe, notify)
        hold_against_frames(sources, [base.model.config], notify, words=self.facts(recipe).writes_ctc)
        vectors = load_vectors(recipe.vectors, base, notify)
        if recipe.compress is not None:
            vectors = _compressed(vectors, recipe.compress, notify)
        merged = MergedBackbone(
            base,
            vectors,
            granularity=recipe.granularity,
            init=recipe.init,
            rule=recipe.rule,
            seed=recipe.seed,
            engine=engine_for(base),
        )
        if isinstance(sources, TaskSources):
            system: AdaLTM | JointAdaLTM = _for_both_tasks(recipe, merged, sources, notify)
            moves = system.learns_coefficients
        else:
            model, weights = clip_model(recipe, recipe.head, merged, sources, notify)
            model.words = recipe.words
            system = AdaLTM(model, weights, recipe.rates)
            moves = bool(vectors) and recipe.granularity != "static" and recipe.training.epochs != 0
        trained, total = system.trainable_share() if recipe.training.epochs != 0 else (0, 1)
        notify(told_share(trained, total))
        if moves:
            steps = recipe.training.total_steps(sources.train.batches_per_epoch())
            reach = coefficient_reach(recipe.rates.coefficients, steps, recipe.training.schedule)
            notify(f"a coefficient can move by at most about {reach:.3g} in {steps:,} steps")
        return system

    def kept(self, recipe: AdaLTMRecipe, system: System) -> KeptStates | None:
        if isinstance(system, JointAdaLTM):
            return None if system.learns_coefficients else FrozenLayers(system.model.encoder, "frames")
        assert isinstance(system, AdaLTM)
        if isinstance(system.merged.coefficients, nn.Parameter):
            return Front.of(system.merged)
        return FrozenLayers.of(system.model)

    def save(self, system: System, folder: Path) -> None:
        assert isinstance(system, AdaLTM | JointAdaLTM)
        save_model(system.model, folder)
        write_json(folder / "coefficients.json", _coefficients(system))


METHOD = AdaLTMMethod()


def _compressed(
    vectors: Mapping[str, TaskVector], how: CompressOptions, notify: Notify
) -> dict[str, TaskVector]:
    """The vectors with their matrices as factors; a line for each about what that saves and loses."""
    found: dict[str, TaskVector] = {}
    for name, vector in vectors.items():
        small = vector.compress(rank=how.rank, energy=how.energy)
        found[name] = small
        layers = ", ".join(f"{error:.2g}" for error in small.errors)
        notify(
            f"vector {name}: {small.nbytes / 1e6:.3g} MB of {small.dense_nbytes / 1e6:.3g} MB; relative "
            f"error of layers 0 to {len(small.errors) - 1}: {layers}"
        )
    return found


def _for_both_tasks(
    recipe: AdaLTMRecipe, merged: MergedBackbone, sources: TaskSources, notify: Notify
) -> JointAdaLTM:
    """Both heads over a merge; they start from those of `start_heads`, else as the recipe's seed says.

    Raises:
        RecipeError: if a head to start from is of another task, form, label set or width.
    """
    (labels,) = (task.labels for task in sources.tasks if task.labels is not None)
    seed_everything(recipe.seed)
    transcriber = CTCHead(merged.hidden_size, sources.vocabulary)
    # Again, so that either head starts as the same head of other rows does.
    seed_everything(recipe.seed)
    words_encoder = merged.twin() if recipe.coefficients == "per_task" else None
    model = JointModel(merged, labels, transcriber, recipe.head, words_encoder)
    model.words = recipe.words
    for task, source in recipe.start_heads.items():
        _start_head(model, task, source)
        notify(f"{task}: its head starts from that of {source}")
    tell_tasks(sources, notify)
    return JointAdaLTM(
        model,
        class_balanced_weights(torch.from_numpy(sources.train.sources[EMOTIONS].emotion_target_matrix())),
        recipe.rates,
        learn_from=recipe.learn_from or TASKS,
        weights={task.name: task.weight for task in sources.tasks},
        validation_clips=None if sources.dev is None else sources.dev.clips(),
    )


def _coefficients(system: AdaLTM | JointAdaLTM) -> dict[str, Any]:
    """What was learned of a merge, as JSON."""
    model = system.model
    merged = model.encoder
    assert isinstance(merged, MergedBackbone)
    stated: dict[str, Any] = {**merged.as_dict(), "layer_weights": model.layer_sum.weights.tolist()}
    if isinstance(model, JointModel) and model.words_encoder is not None:
        stated["coefficients_asr"] = model.words_encoder.coefficients_by_layer()
    return stated


def _start_head(model: JointModel, task: str, source: str) -> None:
    """Takes over a trained head: layer weights and emotion head, or CTC head."""
    folder = find_model(source)
    if folder is None:
        raise RecipeError(
            f"start_heads.{task}: {source} holds no model; give a run or a model folder with that head"
        )
    trained = load_model(folder)
    if task == WORDS:
        _copy(_ctc_head(trained, source), model.transcriber, f"start_heads.{task}: {source}")
        return
    if not isinstance(trained, EmotionModel):
        raise RecipeError(f"start_heads.{task}: {source} has no emotion head; give a run that learned them")
    if tuple(trained.labels) != tuple(model.labels):
        raise RecipeError(
            f"start_heads.{task}: {source} knows {', '.join(trained.labels)}, "
            f"the recipe {', '.join(model.labels)}; give a head of the same label set, or name its labels in "
            "tasks.ser.labels"
        )
    _copy(trained.layer_sum, model.layer_sum, f"start_heads.{task}: {source}")
    _copy(trained.head, model.head, f"start_heads.{task}: {source}")


def _ctc_head(trained: Model, source: str) -> CTCHead:
    if isinstance(trained, TranscriptionModel):
        return trained.head
    if isinstance(trained, MultitaskModel):
        return trained.transcriber
    raise RecipeError(f"start_heads.{WORDS}: {source} has no CTC head; give a run that learned words")


def _copy(trained: nn.Module, started: nn.Module, what: str) -> None:
    wanted = {name: tuple(value.shape) for name, value in started.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in trained.state_dict().items()}
    if wanted != found:
        raise RecipeError(f"{what} has a head of another form or width; give `head` as it was trained with")
    started.load_state_dict(trained.state_dict())
