"""What fits a base encoder: rates, head and warm-up by family and size, in one table.

A recipe with `defaults: fit` (all packaged ones that start from a base) takes from here what it and its
overrides leave out. How the numbers were found, and which are only usual ones: docs/recipes.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from voxstrata.errors import RecipeError, VoxstrataError
from voxstrata.runs import RunFolder

#: The key of a recipe, and its value, that ask for this table.
KEY, FIT = "defaults", "fit"

FamilyName = Literal["whisper", "wav2vec2"]
Size = Literal["tiny", "base", "large"]

#: Most parameters in the layers of an encoder of a size, in millions; above all of them it is large.
SIZES: dict[Size, float] = {"tiny": 30, "base": 150}

#: Systems that start from encoders, and those that have values of their own.
_FITTED, _OWN = ("finetune", "adaltm", "multitask"), ("harmonifuse", "pretraining", "statistics", "text")

#: The base where a recipe names none.
BASE = "whisper-tiny.en"

#: Longest part of a clip that a head over a frozen encoder learns from: mostly all of it, so that states can
#: be kept.
FROZEN_CROP_S = 15.0

#: Head options that belong to one form.
_OF_FORM = ("form", "width", "batch_norm", "dropout")

Say = Callable[[str], None]


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

#: Names of published encoders -> their kind; what their config.json says too.
_NAMES: tuple[tuple[str, FamilyName, Size], ...] = (
    (r"whisper-(tiny|base)(?![a-z])", "whisper", "tiny"),
    (r"whisper-small(?![a-z])", "whisper", "base"),
    (r"whisper-(medium|large)(?![a-z])", "whisper", "large"),
    (r"(wavlm|hubert|wav2vec2|data2vec-audio|unispeech-sat)-base(?![a-z])", "wav2vec2", "base"),
    (r"(wavlm|hubert|wav2vec2|data2vec-audio|unispeech-sat)-x?large(?![a-z])", "wav2vec2", "large"),
    (r"wav2vec2-xls-r-", "wav2vec2", "large"),
)


@dataclass(frozen=True)
class EncoderKind:
    """Of an encoder.

    Args:
        family: its row's family.
        size: its row's size.
        told_by: what it was told by, in words; None where nothing tells it.
    """

    family: FamilyName
    size: Size
    told_by: str | None

    @property
    def fit(self) -> Fit:
        """Its row."""
        return TABLE[self.family][self.size]

    def __str__(self) -> str:
        return f"{self.family}, {self.size}"


def size_of(layers: int, hidden: int, feed_forward: int) -> Size:
    """The size of an encoder of L layers, D features and a feed-forward part of width F.

    Args:
        layers: L.
        hidden: D.
        feed_forward: F.

    >>> size_of(4, 384, 1536), size_of(12, 768, 3072), size_of(24, 1024, 4096)
    ('tiny', 'base', 'large')
    """
    parameters = layers * (4 * hidden**2 + 2 * hidden * feed_forward)
    return next((size for size, most in SIZES.items() if parameters <= most * 1e6), "large")


def kind_of(base: str, architecture: str | None = None, *, download: bool = False) -> EncoderKind:
    """Family and size of a base, from its config.json, or else from its name; no weight is read.

    Args:
        base: as in a recipe: a packaged name, a folder, a run (perhaps not trained yet) or a hub id.
        architecture: as in a recipe.
        download: whether one that is not here, and whose name tells nothing, is fetched as loading it would.

    Raises:
        CheckpointError: if it is to be fetched and cannot be had.
    """
    base = _trained_from(base)
    for place in (architecture, base):
        if place is not None and (kind := _by_config(place, download=False)) is not None:
            return kind
    for place in (architecture, base):
        if place is not None and (kind := _by_name(place)) is not None:
            return kind
    if download and not Path(base).exists() and (kind := _by_config(base, download=True)) is not None:
        return kind
    return EncoderKind("wav2vec2", "large", None)


def _trained_from(base: str) -> str:
    """The base of a run without a model yet, and of that its base."""
    from voxstrata.recipes.reading import read_yaml

    seen = set[str]()
    while base not in seen and not _in(base, "model/encoder/config.json"):
        seen.add(base)
        if not (recipe := RunFolder(Path(base)).recipe).is_file():
            break
        told = read_yaml(recipe).get("base")
        base = told if isinstance(told, str) else base
    return base


def _in(base: str, name: str) -> bool:
    return (Path(base) / name).is_file()


def _by_config(place: str, *, download: bool) -> EncoderKind | None:
    from voxstrata.backbone.families.registry import family_of
    from voxstrata.backbone.families.whisper import WhisperFamily
    from voxstrata.backbone.folder import read_config
    from voxstrata.backbone.locate import locate

    try:
        found = locate(place, download=download)
        config = read_config(found if found.is_dir() else found.parent)
        family = family_of(config)
        size = size_of(config.num_hidden_layers, config.hidden_size, family.feed_forward(config))
    except VoxstrataError:
        if download:
            raise
        return None
    except Exception:
        # Of whatever kind the nonsense in a file is: who loads the base says it.
        return None
    return EncoderKind(
        "whisper" if isinstance(family, WhisperFamily) else "wav2vec2", size, "its config.json"
    )


def _by_name(place: str) -> EncoderKind | None:
    for pattern, family, size in _NAMES:
        if re.search(pattern, place.lower()):
            return EncoderKind(family, size, "its name")
    return None


def fitting(
    values: Mapping[str, Any], where: str, *, download: bool = False, say: Say | None = None
) -> dict[str, Any]:
    """What fits the base of a recipe, as values to lay the recipe's own over.

    Args:
        values: of the recipe, overrides laid over it.
        where: it comes from, for messages.
        download: see `kind_of`.
        say: receives lines for the user.

    Raises:
        RecipeError: if the recipe is of a system that has values of its own.
        CheckpointError: see `kind_of`.
    """
    base = _deciding(values)
    if base is None:
        if (system := values.get("system")) in _OWN:
            raise RecipeError(
                f"{where}: {KEY}: {FIT} is of finetune, adaltm, multitask and late-fusion; leave it out "
                f"for {system}"
            )
        return {}
    kind = kind_of(base, values.get("architecture"), download=download)
    if say is not None:
        if kind.told_by is None:
            say(
                f"warning: neither config.json nor name of {base} tells its size: the defaults of a large "
                "encoder "
                f"are taken; give rates, or fetch it first: hf download {base}"
            )
        else:
            say(f"defaults: what fits {base} ({kind}, by {kind.told_by}); recipe.yaml shows all values")
    return _values(kind.fit, values)


def _deciding(values: Mapping[str, Any]) -> str | None:
    """The encoder whose size decides; None for a system that has values of its own, or is none."""
    system = values.get("system")
    if system == "late-fusion":
        experts = values.get("experts")
        return str(next(iter(experts.values()))) if isinstance(experts, Mapping) and experts else BASE
    return str(values.get("base", BASE)) if system in _FITTED else None


def _values(fit: Fit, values: Mapping[str, Any]) -> dict[str, Any]:
    system, words_alone = values.get("system"), values.get("task") == "asr"
    tasks = bool(values.get("tasks"))
    filled: dict[str, Any] = {
        "rates": _rates(fit, system, words_alone=words_alone, tasks=tasks),
        "data": {"batch_size": fit.batch_size},
        "training": {"schedule": "linear"},
    }
    if "warmup_steps" not in _part(values, "training"):
        filled["training"]["warmup"] = fit.warmup
    if words_alone:
        return filled
    filled["head"] = _head(fit, _part(values, "head"))
    if _part(values, "data").get("targets") != "dimensions":
        filled["data"]["smoothing"] = fit.smoothing
    if system == "finetune":
        filled["data"]["crop_s"] = fit.crop_s
    elif system != "multitask" and not tasks:
        filled["data"]["crop_s"] = FROZEN_CROP_S
    return filled


def _rates(fit: Fit, system: object, *, words_alone: bool, tasks: bool) -> dict[str, float]:
    if words_alone:
        return {"encoder": fit.asr_encoder, "head": fit.ctc_head}
    if system == "multitask":
        return {"encoder": fit.asr_encoder, "head": fit.ctc_head, "layer_weights": fit.layer_weights}
    if system == "finetune":
        return {"encoder": fit.ser_encoder, "head": fit.head, "layer_weights": fit.layer_weights}
    rates = {"head": fit.frozen_head, "layer_weights": fit.layer_weights}
    if system == "adaltm":
        rates["coefficients"] = fit.coefficients
    return rates | ({"asr_head": fit.ctc_head} if tasks else {})


def _head(fit: Fit, given: Mapping[str, Any]) -> dict[str, Any]:
    """The head's options; where another form is asked for, its own options are left to it."""
    form = fit.head_options.get("form")
    another = given.get("form", form) != form or given.keys() & {"width", "batch_norm"}
    return {key: value for key, value in fit.head_options.items() if not (another and key in _OF_FORM)}


def _part(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = values.get(key)
    return part if isinstance(part, Mapping) else {}
