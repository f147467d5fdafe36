"""What headers alone tell of an encoder: its architecture, the shapes of its tensors, what it was made from.

No weight is read: safetensors tells shapes in its first bytes, a torch file is memory-mapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.declared_base import declared_base
from voxstrata.backbone.families.registry import family_of
from voxstrata.backbone.input_settings import input_settings_of, require_same_input, stored_input_settings
from voxstrata.backbone.layouts import describe_left_out
from voxstrata.backbone.locate import locate
from voxstrata.backbone.origin import find_origin


@dataclass(frozen=True)
class EncoderHeaders:
    """A base encoder, not read.

    Args:
        name: as it was given.
        file: that holds its tensors.
        layout: of the file.
        config: its architecture.
        expected: name -> tensor of the model, without memory (device "meta").
        normalize: whether waveforms are normalised before it; None: not known.
    """

    name: str
    file: Path
    layout: str
    config: PretrainedConfig
    expected: Mapping[str, Tensor]
    normalize: bool | None = None

    @property
    def parameters(self) -> int:
        """Floating-point values of the model."""
        return sum(tensor.numel() for tensor in self.expected.values() if tensor.is_floating_point())


@dataclass(frozen=True)
class ExpertHeaders:
    """An expert whose shapes fit a base.

    Args:
        name: as it was given.
        file: that holds its tensors.
        layout: of the file.
        values: in the tensors of its encoder, or in an adapter's products.
        left_out: its heads, in words.
        told_base: what it says it was made from; None where it does not tell.
    """

    name: str
    file: Path
    layout: str
    values: int
    left_out: str
    told_base: str | None


def read_base(name: str, architecture: str | None = None) -> EncoderHeaders:
    """A base encoder from its headers; nothing is downloaded.

    Args:
        name: a packaged name, folder, file or hub id (looked up in the hub's cache).
        architecture: see `find_origin`.

    Raises:
        CheckpointError: if it is not here, in no known layout, or its tensors do not fit its architecture.
    """
    place = locate(name, download=False)
    origin = find_origin(place, architecture and locate(architecture, download=False))
    expected = origin.expected()
    stated = origin.normalize
    normalize = family_of(origin.config).normalizes(origin.config) if stated is None else stated
    checkpoint = origin.checkpoint
    return EncoderHeaders(name, checkpoint.path, checkpoint.layout, origin.config, expected, normalize)


def read_expert(name: str, base: EncoderHeaders, *, normalize: bool | None = None) -> ExpertHeaders:
    """An expert of a base from its headers; nothing is downloaded.

    Args:
        name: a packaged name, folder, file or hub id (looked up in the hub's cache).
        base: that it is to be merged into.
        normalize: whether the base is run on normalised waveforms; None: as it tells itself.

    Raises:
        CheckpointError: if it is not here, in no known layout, does not fit the base, or expects its input
            in another form.
    """
    place = locate(name, download=False)
    checkpoint = open_checkpoint(place, family_of(base.config))
    checkpoint.check(base.expected)
    if (run := base.normalize if normalize is None else normalize) is not None:
        ours = input_settings_of(base.config, normalize=run)
        require_same_input(name, stored_input_settings(place, checkpoint.settings), ours)
    return ExpertHeaders(
        name,
        checkpoint.path,
        checkpoint.layout,
        sum(prod(shape) for shape in checkpoint.all_shapes().values()),
        describe_left_out(checkpoint.left_out),
        declared_base(checkpoint),
    )


def model_shapes(config: PretrainedConfig) -> dict[str, Tensor]:
    """The tensors of a model by name, without memory.

    Raises:
        CheckpointError: if it is no speech encoder.
    """
    family = family_of(config)
    with torch.device("meta"):
        tensors: dict[str, Tensor] = family.build(config).state_dict()
    return tensors
