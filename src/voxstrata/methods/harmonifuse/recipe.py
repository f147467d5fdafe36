"""The recipe of HarmoniFuse: tasks, and the model's options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from voxstrata.config.recipe import BaseRecipe
from voxstrata.config.strict import Gigabytes
from voxstrata.config.task_use import TaskUse
from voxstrata.config.training import Training
from voxstrata.methods.harmonifuse.options import HarmoniFuseOptions


class HarmoniFuseRecipe(BaseRecipe, HarmoniFuseOptions):
    """One speech language model for several tasks, each with its own corpora (HarmoniFuse, arXiv 2509.18570).

    The paper states the parts and both fusions; all defaults of sizes, rates and schedule are ours. Give
    `training.steps`, since tasks have epochs of their own. A task that is null is left out. The weights of
    the lowest validation loss are kept: the mean over tasks.

    Args:
        tasks: name -> task, see `tasks`.
        class_weights: of the classes in the loss: "equal", or "balanced" by their effective number of clips.
        cache_gb: disk space in GB for the states of an encoder that is not trained; 0: it runs in every
            epoch.
        training: how long and how to train.
    """

    system: Literal["harmonifuse"] = "harmonifuse"
    tasks: dict[str, TaskUse] = Field(min_length=1)
    class_weights: Literal["equal", "balanced"] = "equal"
    cache_gb: Gigabytes = 10.0
    training: Training

    @field_validator("tasks", mode="before")
    @classmethod
    def _without_absent(cls, tasks: object) -> object:
        return {k: v for k, v in tasks.items() if v is not None} if isinstance(tasks, dict) else tasks

    @model_validator(mode="after")
    def _whole_clips_of_classes(self) -> HarmoniFuseRecipe:
        self.data.require_whole_clips(self.system)
        if self.data.labels is not None:
            raise ValueError(
                "data.labels is given, and classes belong to a task here; give tasks.ser.labels, and "
                "data.labels=null"
            )
        self.data.require_classes(self.system)
        return self
