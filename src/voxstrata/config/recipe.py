"""What recipes of several systems share: the loop, a head, a base encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, model_validator

from voxstrata.config.data import Data
from voxstrata.config.leaks import checked_leaks
from voxstrata.config.strict import Count, Fraction, Positive, PositiveNumber, Seed, Size, Strict


class Training(Strict):
    """The loop: exactly one of epochs and steps, at most one of warmup (a share of them) and warmup_steps."""

    epochs: Positive | None = None
    steps: Positive | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: Positive = 1
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip_norm: PositiveNumber = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Fraction = 0.0
    warmup_steps: Count = 0
    patience: Positive | None = None
    validate_every: Positive | None = None
    checkpoint_every_steps: Positive | None = None
    keep_best: bool = True

    @model_validator(mode="after")
    def _one_length_and_one_warmup(self) -> Training:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        if self.warmup and self.warmup_steps:
            raise ValueError(
                f"warmup ({self.warmup:g} of the steps) and warmup_steps ({self.warmup_steps}) are two "
                "ways of "
                "saying one thing; set one of them to 0"
            )
        return self


class TrainingOrNone(Training):
    """With `epochs: 0` nothing is trained: the model answers with what it starts from."""

    epochs: Count | None = None


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
