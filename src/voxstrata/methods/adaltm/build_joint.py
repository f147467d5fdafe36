"""From an AdaLTM recipe with tasks to its modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.errors import RecipeError
from voxstrata.methods.task_sources import TaskSources
from voxstrata.heads.ctc import CTCHead
from voxstrata.heads.emotion import EmotionHeadOptions
from voxstrata.labels import LabelSet
from voxstrata.losses import class_balanced_weights
from voxstrata.methods.adaltm.merged import MergedBackbone, engine_for
from voxstrata.methods.adaltm.task_vector import TaskVector
from voxstrata.methods.encoder_recipes import AdaLTMRecipe
from voxstrata.methods.adaltm.joint import EMOTIONS, TASKS, WORDS, JointAdaLTM, JointModel, JointRates
from voxstrata.methods.model_folder import Model, find_model, load_model
from voxstrata.methods.baselines.multitask import MultitaskModel
from voxstrata.methods.encoder_models import EmotionModel, TranscriptionModel
from voxstrata.training.seeding import seed_everything

Say = Callable[[str], None]


def build_joint(
    recipe: AdaLTMRecipe,
    base: SpeechEncoder,
    vectors: Mapping[str, TaskVector],
    sources: TaskSources,
    say: Say,
) -> JointAdaLTM:
    """The modules of a recipe; heads start from those of `start_heads`, else as the recipe's seed says.

    Raises:
        RecipeError: if a head to start from is of another task, form, label set or width.
    """
    merged = MergedBackbone(
        base, vectors, granularity=recipe.granularity, init=recipe.init, engine=engine_for(base)
    )
    labels = _labels(sources)
    seed_everything(recipe.seed)
    transcriber = CTCHead(base.hidden_size, sources.vocabulary)
    # Again, so that either head starts as the same head of other rows does.
    seed_everything(recipe.seed)
    options = EmotionHeadOptions(**recipe.head.model_dump())
    words_encoder = merged.twin() if recipe.coefficients == "per_task" else None
    model = JointModel(merged, labels, transcriber, options, words_encoder)
    model.words = recipe.words
    for task, source in recipe.start_heads.items():
        _start_head(model, task, source)
        say(f"{task}: its head starts from that of {source}")
    system = JointAdaLTM(
        model,
        class_balanced_weights(torch.from_numpy(sources.train.sources[EMOTIONS].emotion_target_matrix())),
        JointRates(**recipe.rates.model_dump()),
        learn_from=recipe.learn_from or TASKS,
        weights={task.name: task.weight for task in sources.tasks},
        validation_clips=None if sources.dev is None else sources.dev.clips(),
    )
    _tell(system, sources, say)
    trained, total = system.trainable_share() if recipe.training.epochs != 0 else (0, 1)
    say(
        f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%})"
        if trained
        else "nothing is trained"
    )
    return system


def _labels(sources: TaskSources) -> LabelSet:
    (labels,) = (task.labels for task in sources.tasks if task.labels is not None)
    return labels


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


def _tell(system: JointAdaLTM, sources: TaskSources, say: Say) -> None:
    for task in sources.tasks:
        source = sources.train.sources[task.name]
        share = sources.train.schedule.share(task.name)
        of = "words" if task.labels is None else f"emotions: {', '.join(task.labels)}"
        say(f"{task.name} {of}; {len(source):,} clips, {share:.0%} of the steps")
        if sources.dev is not None and task.name not in sources.dev.sources:
            say(f"warning: {task.name} has no dev clips; the weights are chosen without it")
    for line in sources.absent_classes():
        say(f"warning: {line}")
