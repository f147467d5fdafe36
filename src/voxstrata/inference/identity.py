"""What tells one set of models from another: answers of two do not belong in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.inference.models import AnyModel
from voxstrata.methods.adaltm.merged import MergedBackbone


def fingerprint_of(models: Iterable[AnyModel]) -> str:
    """SHA-256 over the kind, weights, classes and input settings of models, in hexadecimal.

    Where they were read from is no part of it: a copy of a run has the fingerprint of the run.
    """
    digest = hashlib.sha256()
    for model in models:
        classes = getattr(model, "labels", None)
        digest.update(f"{type(model).__name__} {None if classes is None else [*classes]}\n".encode())
        digest.update(fingerprint(model.state_dict()).encode())
        for module in model.modules():
            if isinstance(module, MergedBackbone):
                # Its base and its vectors are in no state dict.
                digest.update(fingerprint(module.merged_state()).encode())
                module = module.base
            if isinstance(module, SpeechEncoder):
                digest.update(f"{module.normalize} {module.final_norm} {module.window}\n".encode())
    return digest.hexdigest()
