"""voxstrata: combine what several fine-tuned speech models know, layer by layer.

Merge = combine weights, fuse = combine activations. Importing costs no torch: names load on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_backbone": "voxstrata.backbone.encoder",
    "SpeechEncoder": "voxstrata.backbone.encoder",
    "TaskVector": "voxstrata.merging.task_vector",
    "MergedBackbone": "voxstrata.merging.merged",
    "Recognizer": "voxstrata.inference.recognizer",
    "Recognition": "voxstrata.inference.recognizer",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'voxstrata' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
