"""The base of all schemas, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Gigabytes = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    """No unknown keys; values are not changed after they were read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
