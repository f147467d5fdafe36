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
    """The emotion head and the weighted sum of layers before it.

    Form a: linear, mean over frames, linear (EMO-SUPERB; 264,456 parameters for 8 classes on WavLM-Large).
    Form b: three pointwise convolutions with ReLU, mean over frames, two linear maps (vox-profile; 461,832).
    Form c: attentive statistics pooling, linear, LayerNorm, ReLU, linear (baseline of the MSP-Podcast
    challenge; 3,159,048). Form d: mean and standard deviation over frames, batch norm, linear, as a linear
    probe (20,488).

    Args:
        form: see above.
        width: features inside the head; None for the form's own: 256, of form c 1024; form d has none.
        dropout: inside the head; None for the form's own: 0, of form b 0.1, of form c 0.5.
        batch_norm: normalise the pooled features over the batch; form a only (form d always does).
        normalize_layers: bring each layer to zero mean and unit variance before the weighted sum; helps
            small encoders.

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
            raise ValueError(
                f"batch_norm is true and form is {self.form}, and only form a has it; give one of "
                "head.batch_norm=false and head.form=a"
            )
        if self.width is not None and self.form == "d":
            raise ValueError(
                f"width is {self.width} and form is d, which has none; give head.width=null or another form"
            )
        return self
