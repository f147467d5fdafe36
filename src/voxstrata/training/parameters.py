"""What is trained and what is kept: parameter groups, and the tensors of a system that training changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from voxstrata.errors import CheckpointError, TrainingError
from voxstrata.system import ParameterGroup, System

#: Tensors by their name in the system.
Tensors = dict[str, Tensor]


def open_for_training(system: System) -> list[ParameterGroup]:
    """The system's parameter groups; parameters in no group are frozen.

    Raises:
        TrainingError: if nothing is trained, or a parameter stands in two groups or is not the system's.
    """
    groups = system.parameter_groups()
    own = {id(parameter) for parameter in system.parameters()}
    seen: dict[int, str] = {}
    for group in groups:
        for parameter in group.parameters:
            if id(parameter) not in own:
                raise TrainingError(f"group {group.name!r} holds a parameter that is not part of the system")
            if id(parameter) in seen:
                raise TrainingError(
                    f"a parameter stands in group {seen[id(parameter)]!r} and again in {group.name!r}; "
                    "each needs one learning rate"
                )
            seen[id(parameter)] = group.name
    if not seen:
        raise TrainingError("the system has no parameters to train; its parameter groups are empty")
    for parameter in system.parameters():
        parameter.requires_grad_(id(parameter) in seen)
    return [group for group in groups if group.parameters]


def _changing(system: System) -> Tensors:
    parameters = dict(system.named_parameters(remove_duplicate=False))
    buffers = {name: tensor for name, tensor in system.state_dict().items() if name not in parameters}
    trained = {name: parameter for name, parameter in system.named_parameters() if parameter.requires_grad}
    return {**trained, **buffers}


def trained_tensors(system: System) -> Tensors:
    """Copies, on the CPU, of what training changes: trainable parameters and persistent buffers."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in _changing(system).items()
    }


def restore_tensors(system: System, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors of `trained_tensors` back into the system, in place.

    Raises:
        CheckpointError: if names or shapes are not those of the system.
    """
    own = _changing(system)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise CheckpointError(
            f"the checkpoint is not of this system: {len(odd)} names differ, e.g. {odd[0]!r}; "
            "use a new run folder"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{name} is {list(tensors[name].shape)} in the checkpoint and {list(tensor.shape)} in "
                    "the system; use a new run folder"
                )
            tensor.copy_(tensors[name])


def trained_bytes(system: System) -> tuple[int, int]:
    """Bytes of trainable parameters, and of persistent buffers."""
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in _changing(system).items()}
    parameters = {name for name, _ in system.named_parameters()}
    trained = sum(size for name, size in sizes.items() if name in parameters)
    return trained, sum(sizes.values()) - trained
