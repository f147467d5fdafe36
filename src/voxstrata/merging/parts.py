"""Which tensors are merged, and the groups that have a coefficient each.

Group 0 of an encoder is all that stands outside its layers, group l is its layer l. The decoder of a whole
Whisper has groups of its own in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from voxstrata.backbone.families.family import Family
from voxstrata.backbone.groups import layer_index
from voxstrata.errors import RecipeError

Part = Literal["encoder", "decoder", "all"]
PARTS: tuple[Part, ...] = get_args(Part)
_DECODER_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class MergeGroups:
    """The groups of tensors of a merge.

    Args:
        part: what is merged.
        encoder: layers of the encoder.
        decoder: layers of the decoder; 0 without one.
        decoder_parts: what the names of the decoder's tensors start with.
    """

    part: Part
    encoder: int
    decoder: int
    decoder_parts: tuple[str, ...]

    @classmethod
    def of(cls, family: Family, names: Collection[str], part: Part) -> MergeGroups:
        """The groups of a model.

        Args:
            family: of its encoder.
            names: of all its tensors.
            part: what is merged.
        """
        encoder = max(map(layer_index, names))
        decoder = max((_decoder_layer(name) for name in names), default=0)
        return cls(part, encoder, decoder, family.decoder_parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the groups, e.g. "0", "1", "decoder.0"; a coefficient belongs to each."""
        encoder = [str(layer) for layer in range(self.encoder + 1)]
        decoder = [f"decoder.{layer}" for layer in range(self.decoder + 1)]
        return tuple([*encoder] * (self.part != "decoder") + [*decoder] * (self.part != "encoder"))

    def index(self, name: str) -> int | None:
        """The group of a tensor, as a place in `labels`; None for one that is not merged."""
        if not name.startswith(self.decoder_parts):
            return None if self.part == "decoder" else layer_index(name)
        if self.part == "encoder":
            return None
        return _decoder_layer(name) + (self.encoder + 1) * (self.part == "all")

    def described(self) -> str:
        """What is merged in words, e.g. "13 groups (layers 0 to 12)"."""
        shown = []
        if self.part != "decoder":
            shown.append(f"layers 0 to {self.encoder}")
        if self.part != "encoder":
            shown.append(f"decoder.0 to decoder.{self.decoder}")
        return f"{len(self.labels)} groups ({', '.join(shown)})"


def holds_decoder(family: Family, names: Collection[str]) -> bool:
    """Whether there is a decoder among tensors."""
    return any(name.startswith(family.decoder_parts) for name in names)


def chosen_part(given: str | None, base: bool, experts: Collection[bool]) -> Part:
    """What is merged, where the answer is left out: all that the base and every expert hold.

    Args:
        given: as the user writes it.
        base: whether the base has a decoder.
        experts: whether each expert has.

    Raises:
        RecipeError: if there is no such part, or the base lacks it.
    """
    if given is None:
        return "all" if base and all(experts) else "encoder"
    for part in PARTS:
        if given == part:
            if part != "encoder" and not base:
                raise RecipeError(f"parts is {part}, but the base holds no decoder; merge the encoder alone")
            return part
    raise RecipeError(f"parts is {given!r}; allowed are {', '.join(PARTS)}")


def _decoder_layer(name: str) -> int:
    match = _DECODER_LAYER.match(name)
    return int(match[1]) + 1 if match else 0
