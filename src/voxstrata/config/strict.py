"""The base of all schemas, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

#: More of anything that is counted would not end.
MOST = 10**9
#: The widest layer that a network of today has, many times over.
WIDEST = 2**16


def _plain_number(value: Any) -> Any:
    """A number that YAML takes for a text (1e5) as a number; true and false are none.

    Raises:
        ValueError: if it is true or false.
    """
    if isinstance(value, bool):
        raise ValueError(f"found {str(value).lower()}; a whole number is needed")
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


Whole = Annotated[int, BeforeValidator(_plain_number)]
Rate = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[Whole, Field(gt=0, le=MOST)]
Size = Annotated[Whole, Field(gt=0, le=WIDEST)]
PositiveNumber = Annotated[float, Field(gt=0)]
Count = Annotated[Whole, Field(ge=0, le=MOST)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
#: Of a vector, where a merge starts from: any more leaves every model behind.
Coefficient = Annotated[float, Field(ge=-1000, le=1000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$")]
Gigabytes = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    """No unknown keys, no number that is none; values are not changed after they were read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def but(self, **changes: Any) -> Self:
        """The same with other values, which are checked as well.

        Raises:
            ValueError: if they do not hold.
        """
        return type(self)(**{**dict(self), **changes})
