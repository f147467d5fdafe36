"""What fits an encoder of a family and size: rates, head and warm-up, in one table.

How the numbers were found, and which are only usual ones: docs/reference/defaults.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FamilyName = Literal["whisper", "wav2vec2"]
Size = Literal["tiny", "base", "large"]

#: Most parameters in the layers of an encoder of a size, in millions; above all of them it is large.
SIZES: dict[Size, float] = {"tiny": 30, "base": 150}

#: The base where a recipe names none.
BASE = "whisper-tiny.en"

#: Longest part of a clip that a head over a frozen encoder learns from: mostly all of it, so that states can
#: be kept.
FROZEN_CROP_S = 15.0

#: Head options that belong to one form.
_OF_FORM = ("form", "width", "batch_norm", "dropout")


@dataclass(frozen=True)
class Fit:
    """What fits the encoders of one family and size.

    Args:
        ser_encoder: peak learning rate of an encoder that is fine-tuned for emotions alone.
        asr_encoder: of one fine-tuned for words, also with emotions beside: low rates leave CTC blank.
        head: of a head over an encoder that is fine-tuned for emotions alone.
        ctc_head: of heads over one that is fine-tuned for words, also with emotions beside.
        frozen_head: of heads over encoders that are not fine-tuned.
        crop_s: longest part of a clip in fine-tuning for emotions, in seconds.
        measured: whether the numbers come from runs; else they are usual ones of the field.
        layer_weights: of the weights of the layer sum.
        coefficients: of a merge.
        head_options: `head` of a recipe.
        smoothing: of class targets.
        batch_size: clips a batch.
        warmup: share of the steps.
    """

    ser_encoder: float
    asr_encoder: float
    head: float
    ctc_head: float
    frozen_head: float
    crop_s: float
    measured: bool = False
    # Softmax logits and coefficients are the same kind of numbers for every encoder.
    layer_weights: float = 1e-2
    coefficients: float = 1e-2
    head_options: Mapping[str, Any] = field(
        default_factory=lambda: {"form": "d", "normalize_layers": True, "dropout": 0.3}
    )
    smoothing: float = 0.1
    batch_size: int = 16
    warmup: float = 0.1


TABLE: dict[FamilyName, dict[Size, Fit]] = {
    "whisper": {
        "tiny": Fit(2e-5, 3e-4, 1e-3, 2e-3, 1e-3, 15.0, measured=True),
        "base": Fit(2e-5, 2e-4, 1e-3, 2e-3, 1e-3, 15.0),
        "large": Fit(1e-5, 1e-4, 1e-3, 1e-3, 1e-3, 15.0),
    },
    "wav2vec2": {
        "tiny": Fit(2e-4, 5e-4, 1e-3, 3e-3, 1e-3, 2.5, measured=True),
        "base": Fit(5e-5, 1e-4, 1e-3, 1e-3, 1e-3, 15.0),
        "large": Fit(2e-5, 1e-4, 1e-3, 1e-3, 1e-3, 15.0),
    },
}


def shared_defaults(fit: Fit, values: Mapping[str, Any]) -> dict[str, Any]:
    """What fits whatever an encoder is trained for: the size of a batch, the schedule, the warm-up.

    Args:
        fit: of the base.
        values: of the recipe, as its author gave them.
    """
    filled: dict[str, Any] = {"data": {"batch_size": fit.batch_size}, "training": {"schedule": "linear"}}
    if "warmup_steps" not in part_of(values, "training"):
        filled["training"]["warmup"] = fit.warmup
    return filled


def emotion_defaults(fit: Fit, values: Mapping[str, Any], *, crop_s: float | None = None) -> dict[str, Any]:
    """`shared_defaults`, and what fits an emotion head: its options, smoothing, the length of crops.

    Args:
        fit: of the base.
        values: of the recipe, as its author gave them.
        crop_s: longest part of a clip; None: all of it.
    """
    filled = shared_defaults(fit, values)
    filled["head"] = _head(fit, part_of(values, "head"))
    if part_of(values, "data").get("targets") != "dimensions":
        filled["data"]["smoothing"] = fit.smoothing
    if crop_s is not None:
        filled["data"]["crop_s"] = crop_s
    return filled


def part_of(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section of a recipe that was not validated yet; empty where there is none."""
    part = values.get(key)
    return part if isinstance(part, Mapping) else {}


def _head(fit: Fit, given: Mapping[str, Any]) -> dict[str, Any]:
    """The head's options; where another form is asked for, its own options are left to it."""
    form = fit.head_options.get("form")
    another = given.get("form", form) != form or given.keys() & {"width", "batch_norm"}
    return {key: value for key, value in fit.head_options.items() if not (another and key in _OF_FORM)}
