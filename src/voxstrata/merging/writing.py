"""Safetensors files, written a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from voxstrata.backbone.containers import Shape
from voxstrata.errors import CheckpointError

#: Torch's number formats -> those of safetensors.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written.

    Args:
        key: its name in the file.
        shape: of it.
        dtype: of it.
        make: gives it when its turn has come.
    """

    key: str
    shape: Shape
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, tensors: Sequence[Planned]) -> None:
    """Writes a file; no more than one tensor is held at a time.

    Args:
        path: of the file.
        tensors: what it holds.

    Raises:
        OSError: if it cannot be written.
        CheckpointError: if safetensors has not a number format.
    """
    # Wide formats first, as safetensors itself has them, so that every tensor is aligned.
    ordered = sorted(tensors, key=lambda one: (-one.dtype.itemsize, one.key))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for one in ordered:
        if one.dtype not in _NAMES:
            raise CheckpointError(
                f"{one.key} is of {one.dtype}, which cannot be written; give --dtype float32"
            )
        end = start + one.nbytes
        header[one.key] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in ordered:
            tensor = one.make()
            assert tensor.dtype == one.dtype and tuple(tensor.shape) == tuple(one.shape)
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
