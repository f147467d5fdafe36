"""What recipes of several systems share: the loop, a head, a base encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, model_validator

from voxstrata.config.data import Data
from voxstrata.config.leaks import checked_leaks
from voxstrata.config.strict import Fraction, Seed, Size, Strict
from voxstrata.config.training import Training


class Head(Strict):
    """Layer sum and head (see heads/)."""

    form: Literal["a", "b", "c", "d"] = "a"
    width: Size | None = None
    dropout: Fraction | None = None
    batch_norm: bool = False
    normalize_layers: bool = False

    @model_validator(mode="after")
    def _batch_norm_of_form_a(self) -> Head:
        if self.batch_norm and self.form != "a":
            raise ValueError(f"head.batch_norm is of form a: leave it out for form {self.form}")
        if self.width is not None and self.form == "d":
            raise ValueError("head.width is of forms a, b and c: leave it out for form d")
        return self


class Recipe(Strict):
    """What all recipes share. Leaks that are allowed are named as in `config.leaks`.

    The key `system` names the method (see `methods.registry`).
    """

    if TYPE_CHECKING:
        system: str

    seed: Seed = 0
    data: Data = Data()
    allow_leaks: Annotated[tuple[str, ...], AfterValidator(checked_leaks)] = ()


class TrainedRecipe(Recipe):
    """Recipes of methods that the training loop trains."""

    if TYPE_CHECKING:
        training: Training


class BaseRecipe(TrainedRecipe):
    """Recipes that start from a base encoder: a packaged name, a folder or a Hub id.

    Architecture: an encoder of the same form, for a checkpoint that does not tell its own. Window: as long as
    the clip, or padded to 30 seconds as OpenAI's Whisper has it.
    """

    base: str = "whisper-tiny.en"
    architecture: str | None = None
    final_norm: bool = False
    normalize: bool | None = None
    window: Literal["clip", "30s"] = "clip"


def require_init(init: object, vectors: Mapping[str, str]) -> None:
    """For a recipe whose `init` may be a coefficient for each vector.

    Raises:
        ValueError: if its names are not those of the vectors.
    """
    if isinstance(init, dict) and init.keys() != vectors.keys():
        raise ValueError(
            f"init names {', '.join(init) or 'nothing'}, and the vectors are {', '.join(vectors) or 'none'}; "
            "give a coefficient for each vector, or one number for all"
        )
