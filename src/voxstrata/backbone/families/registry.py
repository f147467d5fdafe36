"""All families of encoders, and which of them a configuration or a checkpoint is of.

A new family is a file beside this one and a name in `FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import PretrainedConfig

from voxstrata.backbone.containers import Container, some
from voxstrata.backbone.families.family import Family
from voxstrata.backbone.families.wav2vec2 import Wav2Vec2Family
from voxstrata.backbone.families.whisper import WhisperFamily
from voxstrata.backbone.layouts import Layout
from voxstrata.errors import CheckpointError

FAMILIES: tuple[Family, ...] = (WhisperFamily(), Wav2Vec2Family())
_LAYOUTS = tuple((family, layout) for family in FAMILIES for layout in family.layouts)
_ANCHORS = tuple(dict.fromkeys(layout.anchor for _, layout in _LAYOUTS))
#: Finds an encoder's tensors, or LoRA factors for them, among the entries of a file.
WANTED = re.compile(rf"({'|'.join(map(re.escape, _ANCHORS))})$|\.lora_[AB]\b|\.base_layer\.weight$")


def family_of(config: PretrainedConfig) -> Family:
    """The family of an encoder.

    Raises:
        CheckpointError: if it is of none, naming its model type.
    """
    for family in FAMILIES:
        if family.accepts(config):
            return family
    raise CheckpointError(
        f"model type {config.model_type!r} is no speech encoder over waveforms; "
        f"allowed are {', '.join(family.title for family in FAMILIES)}"
    )


def recognize(
    names: Iterable[str], container: Container, *, partial: bool = False, family: Family | None = None
) -> tuple[Family, Layout, str]:
    """Family and layout of a checkpoint, and the prefix of its backbone's names.

    Args:
        names: of its tensors, without what LoRA adds to them.
        container: they come from.
        partial: whether tensors may lack, as in an adapter.
        family: of the encoder that an adapter was made for, where it is known.

    Raises:
        CheckpointError: if it holds no speech encoder, or several.
    """
    names, file = set(names), container.file
    found = _encoders(names, container)
    if not found and partial:
        found = _adapted(names, container, family)
    if len(prefixes := sorted({prefix for _, _, prefix in found})) > 1:
        raise CheckpointError(f"{file} holds {len(prefixes)} encoders, under {prefixes}; keep one of them")
    if found:
        return found[0]
    if "Downstream" in (container.entry, *container.beside):
        raise CheckpointError(
            f"{file} holds a downstream model of s3prl and no Upstream: its encoder was not fine-tuned; "
            "take the encoder that it was trained on"
        )
    raise CheckpointError(
        f"{file} holds no speech encoder: none of its {some(sorted(names))} ends in "
        f"{' or '.join(family.layouts[-1].anchor for family in FAMILIES)}; "
        "give a checkpoint of WavLM, wav2vec 2.0, HuBERT or Whisper"
    )


def _encoders(names: set[str], container: Container) -> list[tuple[Family, Layout, str]]:
    """All encoders that layouts find whole, those of the first layouts first."""
    found = []
    for family, layout in _LAYOUTS:
        for name in sorted(names):
            prefix = name.removesuffix(layout.anchor)
            if prefix == name or not _fits(layout, prefix, container):
                continue
            if not layout.beside or prefix + layout.beside in names:
                found.append((family, layout, prefix))
    return found


def _fits(layout: Layout, prefix: str, container: Container) -> bool:
    return bool(re.fullmatch(layout.prefix, prefix) and re.fullmatch(layout.entry, container.entry))


def _adapted(
    names: set[str], container: Container, family: Family | None
) -> list[tuple[Family, Layout, str]]:
    """The encoder that an adapter belongs to, by the names that it changes.

    Whisper and fairseq name the projections of a layer alike. Where nothing tells them apart (`family`, or a
    decoder's layers), an adapter of peft is taken for one of Whisper, which is what there is.
    """
    place = re.compile(r"^(.*?)(?=encoder\.(?:layers|blocks|pos_conv)|feature_(?:projection|extractor)\.)")
    prefixes = {match[1] for name in names if (match := place.match(name))}
    alike = any(re.search(r"(?<![a-z])encoder\.layers\.\d+\.(self_attn|fc[12])\.", name) for name in names)
    of_peft = any(prefix.startswith("base_model.") for prefix in prefixes)
    fairseq = any(re.search(r"feature_(projection|extractor)\.|pos_conv", name) for name in names)
    if family is None and alike:
        family = FAMILIES[0] if of_peft and not fairseq else FAMILIES[1]
    found = []
    for one, layout in _LAYOUTS:
        of_layer = ".self_attn." in layout.anchor
        if (family is not None and one is not family) or of_layer != alike:
            continue
        found += [(one, layout, prefix) for prefix in sorted(prefixes) if _fits(layout, prefix, container)]
    return found
