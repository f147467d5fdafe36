"""The base of all schemas, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from voxstrata.config.problems import problems_in, shown
from voxstrata.documents.text import NUMBER
from voxstrata.errors import OptionsError

#: More of anything that is counted would not end.
MOST = 10**9
#: The widest layer that a network of today has, many times over.
WIDEST = 2**16


def _plain(kind: str) -> BeforeValidator:
    """Refuses what Python or YAML would take for a number, and a person would not: true, 1_0, 0x1 in quotes.

    Args:
        kind: of number that is needed, in words.
    """

    def read(value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, str) and not NUMBER.fullmatch(value.strip())):
            raise ValueError(f"found {shown(value)}; {kind} is needed")
        # pydantic reads 1e5 in quotes as a number, but as no whole one.
        return float(value) if isinstance(value, str) and "e" in value.lower() else value

    return BeforeValidator(read)


Number = Annotated[float, _plain("a number")]
Whole = Annotated[int, _plain("a whole number")]
Rate = Annotated[Number, Field(ge=0, le=1e6)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Positive = Annotated[Whole, Field(gt=0, le=MOST)]
Size = Annotated[Whole, Field(gt=0, le=WIDEST)]
PositiveNumber = Annotated[Number, Field(gt=0)]
Count = Annotated[Whole, Field(ge=0, le=MOST)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
#: Of a vector, where a merge starts from: any more leaves every model behind.
Coefficient = Annotated[Number, Field(ge=-1000, le=1000)]
#: A text that is not empty.
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$")]
Gigabytes = Annotated[Number, Field(ge=0)]


class Strict(BaseModel):
    """No unknown keys, no number that is none; values are not changed after they were read.

    Raises:
        OptionsError: if they are built in Python with values that do not hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as fault:
            problems = problems_in(fault, type(self).model_json_schema())
            raise OptionsError(f"{type(self).__name__}: {'; '.join(problems)}") from None

    # Inside others pydantic fills the fields without this method, and collects the faults of all.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        raise OptionsError(
            f"{type(self).__name__} is not changed after it was made; make another: but({name}=...)"
        )

    def but(self, **changes: Any) -> Self:
        """The same with other values, which are checked as well.

        Raises:
            OptionsError: if they do not hold.
        """
        return type(self)(**{**dict(self), **changes})
