"""Identity of a set of weights, whatever file or container they came from, and of an encoder's settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from voxstrata.errors import CheckpointError
from voxstrata.runs import sha256_of

if TYPE_CHECKING:
    from voxstrata.backbone.encoder import SpeechEncoder


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and float32 values of floating-point tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().view(-1).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a weight file, in hexadecimal.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as fault:
        raise CheckpointError(f"cannot read {path}: {fault.strerror or fault}; fetch it again") from None


def settings(encoder: SpeechEncoder) -> str:
    """What an encoder's states depend on beside its weights."""
    config = encoder.model.config.to_json_string(use_diff=False)
    return f"{encoder.normalize} {encoder.final_norm} {encoder.window} {config}"
