"""The emotion head's options: the section `head` of a recipe, as the head takes it."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from voxstrata.config.strict import Fraction, Size, Strict

#: A: linear, mean over frames, linear (EMO-SUPERB). B: pointwise convolutions, mean, two linear maps
#: (vox-profile). C: attentive statistics, two linear maps (baseline of the MSP-Podcast challenge). D: mean
#: and standard deviation over frames, batch norm, one linear map.
Form = Literal["a", "b", "c", "d"]


class HeadOptions(Strict):
    """Form of layer sum and head.

    Args:
        form: see `Form`.
        width: features inside the head; None for the form's own: 256, of form c 1024; form d has none.
        dropout: None for the form's own: 0, of form b 0.1, of form c 0.5.
        batch_norm: see `heads.emotion.PooledLinearHead`; of form a only.
        normalize_layers: see `heads.layer_sum.LayerSum`.

    Raises:
        ValueError: if the form has no such option.
    """

    form: Form = "a"
    width: Size | None = None
    dropout: Fraction | None = None
    batch_norm: bool = False
    normalize_layers: bool = False

    @model_validator(mode="after")
    def _options_of_the_form(self) -> HeadOptions:
        if self.batch_norm and self.form != "a":
            raise ValueError(f"head.batch_norm is of form a: leave it out for form {self.form}")
        if self.width is not None and self.form == "d":
            raise ValueError("head.width is of forms a, b and c: leave it out for form d")
        return self
