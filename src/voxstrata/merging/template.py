"""What a merge looks like on disk: the base's own folder, with other weights in it.

A base in transformers' layout keeps its names, shards, heads and configuration. One in another layout is
written as transformers has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxstrata.backbone.containers import Shape
from voxstrata.backbone.folder import CONFIG, PREPROCESSOR, WEIGHTS
from voxstrata.backbone.lora import plain_name
from voxstrata.errors import CheckpointError
from voxstrata.merging.parents import Parent

INDEX = "model.safetensors.index.json"
#: Files of a model beside its weights and its configuration.
_COPIED = (
    *(PREPROCESSOR, "processor_config.json", "generation_config.json", "tokenizer_config.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "normalizer.json", "added_tokens.json"),
    *("special_tokens_map.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"),
)
#: Norms whose length is that of a state.
_WIDTH_OF = ("encoder.layer_norm.weight", "encoder.layers.0.final_layer_norm.weight")
#: What plain Whisper folders call all that lies under `model`.
_WHOLE = "WhisperForConditionalGeneration"


@dataclass(frozen=True)
class Slot:
    """A tensor of the folder to be written.

    Args:
        key: its name there.
        name: in the backbone; None for what is not of it.
        shape: of it.
        dtype: in which the base has it.
        file: that it is written to.
        read: gives the base's own.
    """

    key: str
    name: str | None
    shape: Shape
    dtype: torch.dtype
    file: str
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Template:
    """The folder to be written.

    Args:
        slots: its tensors.
        config: content of config.json.
        texts: further files by name.
        copied: files of the base that are copied.
        left_out: the base's tensors that are not in it -> what they are.
    """

    slots: tuple[Slot, ...]
    config: Mapping[str, Any]
    texts: Mapping[str, str]
    copied: tuple[Path, ...]
    left_out: Mapping[str, str]


def template_of(base: Parent) -> Template:
    """The folder that a merge into a base has.

    Args:
        base: opened with its decoder, where it has one.

    Raises:
        CheckpointError: if it is an adapter, or its configuration and weights do not belong together.
    """
    checkpoint = base.checkpoint
    if checkpoint.lora is not None:
        raise CheckpointError(
            f"{checkpoint.path} holds LoRA factors; give the encoder that was adapted as the base, and the "
            "adapter as a vector"
        )
    copied = tuple(path for name in _COPIED if (path := base.folder / name).is_file())
    if not _is_plain(base):
        return _converted(base, copied)
    _require_config(base)
    container = checkpoint.container
    names = {key: name for name, key in checkpoint.stored.items()}
    slots = [
        Slot(
            key,
            names.get(key),
            shape,
            _dtype(container.types[key], key, checkpoint.path),
            _file_of(base, key),
            _reading(container.read, key),
        )
        for key, shape in container.shapes.items()
    ]
    return Template(tuple(slots), base.config, {}, copied, {})


def _is_plain(base: Parent) -> bool:
    """Whether plain transformers opens the base's folder: its names stand behind the model's own prefix."""
    checkpoint, kind = base.checkpoint, str(base.config.get("model_type", ""))
    prefixes = ("", f"{kind.replace('-', '_')}.", "model.")
    plain = all(plain_name(key) == key for key in checkpoint.container.shapes)
    entry = checkpoint.container.entry
    return (
        bool(kind)
        and checkpoint.layout == "transformers"
        and checkpoint.prefix in prefixes
        and plain
        and not entry
    )


def _file_of(base: Parent, key: str) -> str:
    """The file that a tensor is written to: the base's shard, or the only one."""
    place = base.checkpoint.container.places.get(key)
    return place.name if place is not None and len(base.files) > 1 else WEIGHTS


def _require_config(base: Parent) -> None:
    """Refuses a configuration that is not of its weights: no program could open the merge."""
    kind, width = base.config["model_type"], base.config.get("d_model", base.config.get("hidden_size"))
    stored = next(
        (shape[0] for name, shape in base.checkpoint.all_shapes().items() if name in _WIDTH_OF), None
    )
    if not isinstance(kind, str):
        raise CheckpointError(f"{base.folder / CONFIG} has the model_type {kind}; fetch the base again")
    if width is not None and stored is not None and width != stored:
        raise CheckpointError(
            f"{base.folder / CONFIG} tells of a width of {str(width)[:20]}, and {base.checkpoint.path.name} "
            f"has {stored}; fetch the base again"
        )
    told = base.config.get("encoder_layers", base.config.get("num_hidden_layers"))
    if isinstance(told, int) and told != base.checkpoint.num_layers:
        raise CheckpointError(
            f"{base.folder / CONFIG} tells of {told} layers, and {base.checkpoint.path.name} has "
            f"{base.checkpoint.num_layers}; fetch the base again"
        )


def _converted(base: Parent, copied: tuple[Path, ...]) -> Template:
    """A base in another layout, in transformers' names, with the configuration that its files tell."""
    # Rare, and the one case that builds the model (without memory): it says which tensors there must be.
    from voxstrata.backbone.origin import find_origin

    origin = find_origin(base.place)
    checkpoint, family = base.checkpoint, base.checkpoint.family
    shapes = {name: tuple(tensor.shape) for name, tensor in origin.expected().items()}
    shapes |= {
        name: shape
        for name, shape in checkpoint.all_shapes().items()
        if name.startswith(family.decoder_parts)
    }
    config = origin.config
    config.architectures = [_WHOLE if base.has_decoder else family.architecture(origin.model)]
    before = "model." if base.has_decoder else ""
    slots = []
    for name, shape in shapes.items():
        key = name if name in family.tied else before + name
        if checkpoint.holds(name, shape):
            stored = checkpoint.stored[name]
            dtype = _dtype(checkpoint.container.types[stored], stored, checkpoint.path)
            slots.append(Slot(key, name, shape, dtype, WEIGHTS, _reading(checkpoint.container.read, stored)))
        else:
            filled = _filling(family.filled, name, shape)
            slots.append(Slot(key, name, shape, torch.float32, WEIGHTS, filled))
    told = origin.normalize
    normalize = family.normalizes(config) if told is None else told
    texts = {}
    if PREPROCESSOR not in {path.name for path in copied}:
        texts[PREPROCESSOR] = json.dumps(family.preprocessor(config, normalize=normalize), indent=2) + "\n"
    left_out = {key: what for key, what in checkpoint.left_out.items() if key in checkpoint.container.shapes}
    return Template(tuple(slots), json.loads(config.to_json_string()), texts, copied, left_out)


def _reading(read: Callable[[str], Tensor], key: str) -> Callable[[], Tensor]:
    return lambda: read(key)


def _filling(filled: Callable[[str, Shape], Tensor], name: str, shape: Shape) -> Callable[[], Tensor]:
    return lambda: filled(name, shape)


def _dtype(kind: str, key: str, path: Path) -> torch.dtype:
    dtype = getattr(torch, kind, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"{path} holds {key} as {kind}; give the base in float32, float16 or bfloat16")
    return dtype
