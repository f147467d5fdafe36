"""Safetensors files, read a tensor at a time by their offsets and not by memory mapping.

Pages of a mapped file count as resident memory as long as the file is open. What is read here takes as much
memory as the tensor, and none of it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxstrata.documents import parse_json
from voxstrata.errors import CheckpointError

#: Types of safetensors whose name in torch does not follow from letter and bits.
_TYPES = {"BOOL": "bool", "BF16": "bfloat16"}
_LETTERS = {"F": "float", "I": "int", "U": "uint", "C": "complex"}
#: Of the length of the header, which a file begins with.
_LENGTH = 8


@dataclass(frozen=True)
class SafetensorsFile:
    """A file whose header is read.

    Args:
        path: of the file.
        shapes: name -> shape.
        types: name -> number format in torch's words, e.g. "float32".
        starts: name -> first byte in the file.
        metadata: texts of the header.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]
    starts: Mapping[str, int]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Reads a header; that it covers the file is checked by safetensors itself.

        Raises:
            OSError: if the file cannot be read.
            SafetensorError: if it is none, or is cut.
        """
        from safetensors import safe_open

        with safe_open(path, framework="pt") as checked:
            metadata = dict(checked.metadata() or {})
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            header: dict[str, Any] = parse_json(
                file.read(length), f"the header of {path}", error=CheckpointError
            )
        header.pop("__metadata__", None)
        names = sorted(header)
        return cls(
            path,
            {name: tuple(header[name]["shape"]) for name in names},
            {name: torch_type(header[name]["dtype"]) for name in names},
            {name: _LENGTH + length + header[name]["data_offsets"][0] for name in names},
            metadata,
        )

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own.

        Raises:
            CheckpointError: if this torch has not its number format, or the file ends before it.
        """
        shape, dtype = self.shapes[name], getattr(torch, self.types[name], None)
        if not isinstance(dtype, torch.dtype):
            raise CheckpointError(
                f"cannot read {name}, stored as {self.types[name]}, which this torch has not"
            )
        data = torch.empty(prod(shape) * dtype.itemsize, dtype=torch.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.starts[name])
            left: memoryview = data.numpy().data
            while left:
                count = file.readinto(left)
                if not count:
                    raise CheckpointError(
                        f"{self.path} ends within {name}; it has changed since it was opened: fetch it again"
                    )
                left = left[count:]
        return data.view(dtype).view(shape)


def torch_type(name: str) -> str:
    """Torch's name of a number format of safetensors.

    >>> torch_type("F32"), torch_type("BF16"), torch_type("F8_E4M3")
    ('float32', 'bfloat16', 'float8_e4m3')
    """
    return _TYPES.get(name, _LETTERS.get(name[:1], name[:1]) + name[1:].lower())
