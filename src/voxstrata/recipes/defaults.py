"""What fits a base encoder: rates, head and warm-up by family and size, in one table.

A recipe with `defaults: fit` (all packaged ones that start from a base) takes from here what it and its
overrides leave out. How the numbers were found, and which are only usual ones: docs/reference/defaults.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.backbone.locate import is_missing_run
from voxstrata.errors import RecipeError, VoxstrataError
from voxstrata.methods.fits import SIZES, TABLE, FamilyName, Fit, Size
from voxstrata.methods.method import Defaults
from voxstrata.methods.registry import methods
from voxstrata.runs import RunFolder

#: The key of a recipe, and its value, that ask for this table.
KEY, FIT = "defaults", "fit"

Notify = Callable[[str], None]

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
        told_by: what it was known by, in words; None where nothing tells it.
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


#: Of a base that nothing tells of.
UNKNOWN = EncoderKind("wav2vec2", "large", None)


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
    return UNKNOWN


def _trained_from(base: str) -> str:
    """The base of a run without a model yet, and of that its base."""
    from voxstrata.recipes.reading import read_yaml

    seen = set[str]()
    while base not in seen and not _in(base, "model/encoder/config.json"):
        seen.add(base)
        if not (recipe := RunFolder(Path(base)).recipe).is_file():
            break
        stated = read_yaml(recipe).get("base")
        base = stated if isinstance(stated, str) else base
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


def defaults_of(values: Mapping[str, Any], where: str) -> Defaults | None:
    """What a recipe's system takes from the table; None where there is no such system.

    Args:
        values: of the recipe, overrides laid over it, not validated yet.
        where: it comes from, for messages.

    Raises:
        RecipeError: if the recipe is of a system that has values of its own.
    """
    method = methods().get(str(values.get("system")))
    if method is None or (found := method.defaults(values)) is not None:
        return None if method is None else found
    fitted = [name for name, one in methods().items() if one.defaults({}) is not None]
    raise RecipeError(
        f"{where}: {KEY}: {FIT} is of {', '.join(fitted[:-1])} and {fitted[-1]}; leave it out for "
        f"{method.name}"
    )


def line_on(base: str, kind: EncoderKind) -> str:
    """What is taken for a base, or that nothing tells its size, in a line for the user."""
    if kind.told_by is not None:
        return f"defaults: what fits {base} ({kind}, by {kind.told_by}); recipe.yaml shows all values"
    here = Path(base).exists() or is_missing_run(base)
    advice = "an architecture of the same size" if here else f"fetch it first: hf download {base}"
    return (
        f"warning: neither config.json nor name of {base} shows its size: the defaults of a large encoder "
        f"are taken; give rates, or {advice}"
    )
