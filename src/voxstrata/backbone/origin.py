"""What an encoder is loaded from: its architecture, its checkpoint, and for LoRA the base beneath."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from voxstrata.backbone.checkpoints import Checkpoint, open_checkpoint
from voxstrata.backbone.config_sizes import check_sizes
from voxstrata.backbone.families.registry import family_of, told_config
from voxstrata.backbone.folder import read_config, read_normalize
from voxstrata.backbone.locate import locate
from voxstrata.backbone.lora import CONFIG
from voxstrata.errors import CheckpointError, VoxstrataError


@dataclass(frozen=True)
class Origin:
    """An encoder on disk, not yet read.

    Args:
        config: its architecture.
        normalize: whether it wants normalised waveforms; None where that is not known.
        checkpoint: its weights, or an adapter's.
        base: the encoder that LoRA changes; None without LoRA.
        model: of the architecture, on the meta device: built once, for whoever asks or loads.
    """

    config: PretrainedConfig
    normalize: bool | None
    checkpoint: Checkpoint
    base: Checkpoint | None
    model: PreTrainedModel

    def expected(self) -> dict[str, Tensor]:
        """The model's tensors by name, without memory.

        Raises:
            CheckpointError: if the checkpoint or the base does not fit them.
        """
        expected: dict[str, Tensor] = self.model.state_dict()
        self.checkpoint.check(expected)
        if self.base is not None:
            self.base.check(expected)
        return expected

    def loaded(self) -> PreTrainedModel:
        """The model with all tensors, float32 on the CPU; LoRA is merged in, what may lack is filled in.

        Raises:
            CheckpointError: if the checkpoint or the base does not fit the model.
        """
        state = {name: self._tensor(name, tensor) for name, tensor in self.expected().items()}
        self.model.load_state_dict(state, assign=True)
        return self.model

    def _tensor(self, name: str, expected: Tensor) -> Tensor:
        stored = self.checkpoint.holds(name, tuple(expected.shape))
        if self.base is None:
            return self.checkpoint.tensor(name) if stored else self._filled(name, expected)
        in_base = self.base.holds(name, tuple(expected.shape))
        beneath = self.base.tensor(name) if in_base else self._filled(name, expected)
        if name in self.checkpoint.stored and not stored:
            return beneath
        return self.checkpoint.tensor(name, beneath)

    def _filled(self, name: str, expected: Tensor) -> Tensor:
        """What a checkpoint lacks; a table of another length must be the same as far as it goes."""
        filled = family_of(self.config).filled(name, expected.shape)
        source = self.base or self.checkpoint
        if name in source.stored and not source.agrees(name, filled):
            raise CheckpointError(
                f"{source.path} has a {name} of its own with {source.shapes[name][0]} rows, where the "
                f"architecture has {len(filled)}; name one with as many (architecture)"
            )
        return filled


def find_origin(name: str | Path, architecture: str | Path | None = None) -> Origin:
    """Finds what an encoder is loaded from.

    Args:
        name: a packaged name, a folder or file, or a hub id.
        architecture: an encoder of the same architecture, for a checkpoint without a configuration of
            transformers; for LoRA the encoder that was adapted.

    Raises:
        CheckpointError: if there is none, or its architecture or base is not known.
    """
    place = locate(name)
    if architecture is not None:
        config, normalize = _configuration(locate(architecture))
        checkpoint = open_checkpoint(place, family_of(config))
    elif _tells_itself(place):
        config, normalize = _configuration(place)
        checkpoint = open_checkpoint(place, family_of(config))
    else:
        checkpoint = open_checkpoint(place)
        architecture = checkpoint.lora.options.base if checkpoint.lora else None
        if architecture is not None:
            config, normalize = _configuration(locate(architecture))
            checkpoint = open_checkpoint(place, family_of(config))
        elif (stated := _told_config(checkpoint)) is not None:
            config, normalize = stated
        else:
            config, normalize = _configuration(place)
    model = _built(config, checkpoint)
    if checkpoint.lora is None:
        return Origin(config, normalize, checkpoint, None, model)
    if architecture is None:
        raise CheckpointError(
            f"{checkpoint.path} holds LoRA factors and does not name their base; name the encoder that was "
            f"adapted as its architecture, or in {CONFIG} beside it"
        )
    base = open_checkpoint(locate(architecture), family_of(config))
    if base.lora is not None:
        raise CheckpointError(
            f"{base.path} holds LoRA factors itself; give the encoder that was adapted first"
        )
    return Origin(config, normalize, checkpoint, base, model)


def _tells_itself(place: Path) -> bool:
    return place.is_dir() and (place / "config.json").is_file()


def _told_config(checkpoint: Checkpoint) -> tuple[PretrainedConfig, bool | None] | None:
    """What a torch file tells of its architecture, and whether it wants normalised waveforms."""
    with _named(f"{checkpoint.path} does not describe its architecture"):
        config = told_config(checkpoint.settings)
        if config is not None:
            check_sizes(config.to_dict(), checkpoint.path)
    if config is None:
        return None
    cfg = checkpoint.settings.get("cfg")
    return config, bool(cfg.get("normalize")) if isinstance(cfg, Mapping) else None


def _built(config: PretrainedConfig, checkpoint: Checkpoint) -> PreTrainedModel:
    """The model of an architecture, on the meta device.

    Refused is what the headers of its checkpoint rule out, or what cannot be built.

    Raises:
        CheckpointError: naming the layers, or what stands in the way.
    """
    layers = int(config.num_hidden_layers)
    if checkpoint.num_layers != layers and not (checkpoint.partial and checkpoint.num_layers < layers):
        raise CheckpointError(
            f"{checkpoint.path} has {checkpoint.num_layers} transformer layers, but its configuration has "
            f"{layers}; choose the checkpoint and the model of one architecture and size"
        )
    with _named(f"the configuration of {checkpoint.path} cannot be built"), torch.device("meta"):
        model: PreTrainedModel = family_of(config).build(config)
    return model


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Makes one line of whatever fails within: a stranger's settings fail in as many ways as there are."""
    try:
        yield
    except VoxstrataError:
        raise
    except Exception as fault:
        reason = str(fault).partition("\n")[0].rstrip(". ") or type(fault).__name__
        raise CheckpointError(f"{what} ({reason}); name an encoder of the same architecture") from None


def _configuration(place: Path) -> tuple[PretrainedConfig, bool | None]:
    folder = place if place.is_dir() else place.parent
    config = read_config(folder)
    family_of(config)
    return config, read_normalize(folder)
