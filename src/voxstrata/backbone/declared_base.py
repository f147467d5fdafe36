"""What a checkpoint itself says that it was made from."""

from __future__ import annotations

from pathlib import Path

from voxstrata.backbone.checkpoints import Checkpoint
from voxstrata.documents import read_json_object
from voxstrata.errors import VoxstrataError

#: Where a config.json or an adapter says so.
_ORIGINS = ("_name_or_path", "base_model_name_or_path")


def declared_base(checkpoint: Checkpoint) -> str | None:
    """The base that an adapter, or the settings beside a checkpoint, name; None where they name none."""
    if checkpoint.lora is not None and checkpoint.lora.options.base is not None:
        return checkpoint.lora.options.base
    for name in ("config.json", "adapter_config.json"):
        path = Path(checkpoint.path).parent / name
        if not path.is_file():
            continue
        try:
            stated = read_json_object(path)
        except VoxstrataError:
            continue
        found = [stated[key] for key in _ORIGINS if isinstance(stated.get(key), str) and stated[key]]
        if found:
            return str(found[0])
    return None
