"""Identity of a set of weights, whatever file or container they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and float32 values of floating-point tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().view(-1).numpy().data)
    return digest.hexdigest()
