"""What several methods build in the same way: a base, a clip model, the weights of its classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from voxstrata.backbone.encoder import SpeechEncoder, load_backbone
from voxstrata.config.head import HeadOptions
from voxstrata.config.recipe import BaseRecipe, Recipe
from voxstrata.errors import counted
from voxstrata.labels import DIMENSIONS
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.adaltm.task_vector import TaskVector, require_a_change
from voxstrata.methods.encoder_models import ClipBackbone, ClipModel, DimensionModel, EmotionModel
from voxstrata.methods.method import Notify, Parent
from voxstrata.methods.sources import Sources
from voxstrata.methods.task_sources import TaskSources
from voxstrata.system import System
from voxstrata.training.seeding import seed_everything


def load_base(recipe: BaseRecipe, notify: Notify) -> SpeechEncoder:
    """The encoder that a recipe starts from.

    Raises:
        CheckpointError: see `load_backbone`.
    """
    base = load_backbone(
        recipe.base,
        architecture=recipe.architecture,
        normalize=recipe.normalize,
        final_norm=recipe.final_norm,
        window=recipe.window,
    )
    notify(f"base {recipe.base}: waveforms are {'' if base.normalize else 'not '}normalised")
    return base


def load_vectors(vectors: Mapping[str, str], base: SpeechEncoder, notify: Notify) -> dict[str, TaskVector]:
    """Task vectors of experts, by name.

    Args:
        vectors: name -> run, model folder or checkpoint.
        base: what the experts were fine-tuned from.
        notify: receives a line for each.

    Raises:
        CheckpointError: see `TaskVector.between`; or if no vector changes anything.
    """
    found = {}
    for name, source in vectors.items():
        found[name] = TaskVector.between(base, source)
        notify(f"vector {name}: {found[name].coverage()}")
    require_a_change(found)
    return found


def vector_parents(vectors: Mapping[str, str]) -> tuple[Parent, ...]:
    """The experts behind a recipe's `vectors`."""
    return tuple(Parent(name, source, ("vectors", name), "checkpoint") for name, source in vectors.items())


def class_weights(sources: Sources, notify: Notify) -> torch.Tensor:
    """Weights of the classes, [C], by how many training clips each has; says which have none."""
    if (line := sources.train.absent_classes()) is not None:
        notify(f"warning: {line}")
    return class_balanced_weights(torch.from_numpy(sources.train.emotion_target_matrix()))


def clip_model(
    recipe: Recipe, head: HeadOptions, encoder: ClipBackbone, sources: Sources, notify: Notify
) -> tuple[ClipModel, torch.Tensor | None]:
    """A model of a recipe's targets, and the weights [C] of its classes; None where ratings are learned.

    Args:
        recipe: its seed decides how the head starts.
        head: of the recipe.
        encoder: that the head stands on.
        sources: of the recipe.
        notify: receives lines for the user.
    """
    seed_everything(recipe.seed)
    if recipe.data.targets != "dimensions":
        assert sources.labels is not None
        return EmotionModel(encoder, sources.labels, head), class_weights(sources, notify)
    ratings = torch.from_numpy(sources.train.rating_matrix())
    centre, spread = ratings.mean(0), ratings.std(0, correction=0).clamp_min(1e-3)
    shown = [f"{name} {c:.2f} ± {s:.2f}" for name, c, s in zip(DIMENSIONS, centre, spread, strict=True)]
    notify(f"training ratings: {', '.join(shown)}")
    return DimensionModel(encoder, head, centre=centre, spread=spread), None


def tell_tasks(sources: TaskSources, notify: Notify, *, prompts: bool = False) -> None:
    """Says what each task has: its classes, clips, share of the steps; what it lacks.

    Args:
        sources: of the recipe.
        notify: receives lines for the user.
        prompts: tasks are named as a language model reads them, e.g. `<asr>`.
    """
    for task in sources.tasks:
        source, name = sources.train.sources[task.name], task.prompt if prompts else task.name
        share = sources.train.schedule.share(task.name)
        field = task.field if prompts else "emotions"
        of = "words" if task.labels is None else f"{field}: {', '.join(task.labels)}"
        notify(f"{name} {of}; {counted(len(source), 'clip')}, {share:.0%} of the steps")
        if sources.dev is not None and task.name not in sources.dev.sources:
            notify(f"warning: {name} has no dev clips; the weights are chosen without it")
    for line in sources.absent_classes():
        notify(f"warning: {line}")


def told_share(trained: int, total: int) -> str:
    """A line about how much is trained."""
    if not trained:
        return "nothing is trained"
    return f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%})"


def trained_parameters(system: System) -> int:
    """Parameters in groups that learn."""
    return sum(p.numel() for group in system.parameter_groups() for p in group.parameters)
