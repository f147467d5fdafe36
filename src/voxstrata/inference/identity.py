"""What tells one set of models from another: answers of two do not belong in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.inference.models import AnyModel
from voxstrata.methods.adaltm.merged import MergedBackbone


def fingerprint_of(models: Iterable[AnyModel]) -> str:
    """SHA-256 over the kind, weights, classes, calibration and input settings of models, in hexadecimal.

    Where they were read from is no part of it: a copy of a run has the fingerprint of the run.
    """
    digest = hashlib.sha256()
    for model in models:
        classes = getattr(model, "labels", None)
        digest.update(f"{type(model).__name__} {None if classes is None else [*classes]}\n".encode())
        digest.update(f"{getattr(model, 'calibration', None)}\n".encode())
        digest.update(fingerprint(dict(_tensors(model.state_dict()))).encode())
        for module in model.modules():
            if isinstance(module, MergedBackbone):
                # Its base and its vectors are in no state dict.
                digest.update(fingerprint(module.merged_state()).encode())
                module = module.base
            if isinstance(module, SpeechEncoder):
                digest.update(f"{module.normalize} {module.final_norm} {module.window}\n".encode())
    return digest.hexdigest()


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict; those of layers in 8 bits stand in it as pairs of weight and bias."""
    for name, value in state.items():
        for place, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(part, Tensor):
                yield f"{name} {place}", part.dequantize() if part.is_quantized else part
