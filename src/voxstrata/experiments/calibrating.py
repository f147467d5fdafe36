"""The end of a training: a temperature from the dev clips, and the class prior that was learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from voxstrata.config.recipe import TrainedRecipe
from voxstrata.evaluation.calibration import fit_temperature
from voxstrata.heads.task import EMOTION
from voxstrata.methods.calibration import Calibration, effective_prior
from voxstrata.methods.encoder_models import Model
from voxstrata.methods.method import Notify
from voxstrata.methods.sources import Sources
from voxstrata.methods.task_sources import AnySources
from voxstrata.predictions import Prediction
from voxstrata.system import System


def calibrate(
    recipe: TrainedRecipe, system: System, sources: AnySources, dev: Sequence[Prediction], notify: Notify
) -> float | None:
    """Gives a system's model its temperature and its prior, and says what the temperature is.

    Args:
        recipe: of the run; with `calibrate: false` there is no temperature.
        system: trained; its model answers with plain probabilities so far.
        sources: of the recipe.
        dev: its answers on the dev clips.
        notify: receives a line about the temperature.

    Returns:
        The temperature; None where the model answers no emotions as classes, or none was asked for.
    """
    models = (part for part in system.modules() if isinstance(part, Model) and part.emotions is not None)
    model = next(models, None)
    if model is None:
        return None
    value = None
    if recipe.calibrate:
        fitted = fit_temperature(dev)
        notify(fitted.about)
        value = fitted.value
    model.calibration = Calibration(value or 1.0, _prior(system, model, sources))
    return value


def _prior(system: System, model: Model, sources: AnySources) -> dict[str, float]:
    """The class prior that the loss of a system saw."""
    assert model.emotions is not None
    if isinstance(sources, Sources):
        name, train = "class_weights", sources.train
    else:
        task = next(task.name for task in sources.tasks if task.labels and task.field == EMOTION)
        train = sources.train.sources[task]
        name = f"class_weights_{task}" if hasattr(system, f"class_weights_{task}") else "class_weights"
    weights = getattr(system, name, None)
    targets = torch.from_numpy(train.emotion_target_matrix())
    return effective_prior(targets, None if weights is None else weights.cpu(), model.emotions.names)
