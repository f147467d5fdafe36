"""All families of encoders, and which of them a configuration or a checkpoint is of.

A new family is a file beside this one and a name in `FAMILIES`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from voxstrata.backbone.containers import Container, some
from voxstrata.backbone.families.family import Family
from voxstrata.backbone.families.wav2vec2 import Wav2Vec2Family
from voxstrata.backbone.families.whisper import WhisperFamily
from voxstrata.backbone.layouts import Layout
from voxstrata.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Of what fits several, it is the first's.
FAMILIES: tuple[Family, ...] = (WhisperFamily(), Wav2Vec2Family())


def family_of(config: PretrainedConfig) -> Family:
    """The family of an encoder.

    Raises:
        CheckpointError: if it is of none, naming its model type.
    """
    for family in FAMILIES:
        if family.accepts(config):
            return family
    raise CheckpointError(
        f"model type {config.model_type!r} is no speech encoder over waveforms; allowed are {_titles()}"
    )


def told_config(settings: Mapping[str, Any]) -> PretrainedConfig | None:
    """The architecture that a torch file tells of beside its tensors; None where it does not.

    Raises:
        CheckpointError: if it tells of one that cannot be built.
    """
    found = (family.told_config(settings) for family in FAMILIES)
    return next((config for config in found if config is not None), None)


def wanted() -> re.Pattern[str]:
    """Finds an encoder's tensors, or LoRA factors for them, among the entries of a file."""
    anchors = dict.fromkeys(layout.anchor for _, layout in _layouts())
    return re.compile(rf"({'|'.join(map(re.escape, anchors))})$|\.lora_[AB]\b|\.base_layer\.weight$")


def recognize(
    names: Collection[str],
    container: Container,
    *,
    adapted: Collection[str] = (),
    family: Family | None = None,
) -> tuple[Family, Layout, str]:
    """Family and layout of a checkpoint, and the prefix of its backbone's names.

    Args:
        names: of the tensors that it holds whole, without what LoRA adds to them.
        container: they come from.
        adapted: names of the tensors that it has LoRA factors for.
        family: of the encoder that it should be of, where that is known.

    Raises:
        CheckpointError: if it holds no speech encoder, or several.
    """
    file = container.file
    found = _encoders(set(names), container, family)
    if not found and adapted:
        found = _adapted({*names, *adapted}, container, family)
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
        f"{file} holds no speech encoder: none of its {some(sorted({*names, *adapted}))} is called as "
        f"{' or '.join(family.layouts[-1].anchor for family in FAMILIES)} is; "
        f"give a checkpoint of one of {_titles()}"
    )


def _titles() -> str:
    return ", ".join(family.title for family in FAMILIES)


def _layouts() -> Iterator[tuple[Family, Layout]]:
    for family in FAMILIES:
        for layout in family.layouts:
            yield family, layout


def _encoders(
    names: set[str], container: Container, family: Family | None
) -> list[tuple[Family, Layout, str]]:
    """All encoders that layouts find whole, those of the first layouts first.

    Of the family that it should be of, a tensor that tells it from others may lack: that is said later.
    """
    found = []
    for one, layout in _layouts():
        for name in sorted(names):
            prefix = name.removesuffix(layout.anchor)
            if prefix == name or not _fits(layout, prefix, container):
                continue
            if not layout.beside or prefix + layout.beside in names or _same(one, family):
                found.append((one, layout, prefix))
    return found


def _fits(layout: Layout, prefix: str, container: Container) -> bool:
    return bool(re.fullmatch(layout.prefix, prefix) and re.fullmatch(layout.entry, container.entry))


def _same(one: Family, other: Family | None) -> bool:
    """A family has no state, but an encoder that is copied has a copy of it."""
    return type(one) is type(other)


def _adapted(
    names: set[str], container: Container, family: Family | None
) -> list[tuple[Family, Layout, str]]:
    """The encoder that an adapter belongs to: in whose spelling most of its names are known.

    Whisper and fairseq name the parts of a layer alike. Where nothing tells them apart it is the first's.
    """
    found: list[tuple[Family, Layout, str]] = []
    most = (0, 0)
    for one, layout in _layouts():
        if family is not None and not _same(one, family):
            continue
        places = [place for name in names if (place := _place(name, one, layout, container))]
        known = Counter(prefix for prefix, _ in places)
        spelled = Counter(prefix for prefix, own in places if not layout.renames or layout.renamed(own))
        scores = {prefix: (known[prefix], spelled[prefix]) for prefix in sorted(known)}
        if scores and max(scores.values()) > most:
            most = max(scores.values())
            found = [(one, layout, prefix) for prefix, score in scores.items() if score == most]
    return found


def _place(name: str, family: Family, layout: Layout, container: Container) -> tuple[str, str] | None:
    """A tensor's name in a prefix and the rest, if that is one of the encoder's own."""
    for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
        prefix, own = name[:start], name[start:]
        if re.match(family.adapted, layout.canonical(own)) and _fits(layout, prefix, container):
            return prefix, own
    return None
