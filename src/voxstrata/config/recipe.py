"""What recipes of several systems share: the loop, a head, a base encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from voxstrata.config.data import Data
from voxstrata.config.leaks import checked_leaks
from voxstrata.config.strict import Seed, Strict
from voxstrata.config.training import Training


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
