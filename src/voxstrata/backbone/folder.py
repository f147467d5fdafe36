"""A model folder as plain transformers reads it: config.json, model.safetensors, preprocessor_config.json."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from voxstrata.backbone.config_sizes import check_sizes
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.runs import require_free, written_whole

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
#: Of preprocessor_config.json as families give it.
_FIRST_KEY = "feature_extractor_type"


def read_config(folder: Path) -> PretrainedConfig:
    """The model configuration of a folder.

    Raises:
        CheckpointError: if there is none, it is of no known model type, or tells of sizes that no encoder
            has.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no config.json as transformers saves one; give such a folder, or name an "
            "encoder of the same architecture beside it (architecture)"
        )
    stated = read_json_object(path, error=CheckpointError, advice="fetch it again")
    check_sizes(stated, path)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        check_sizes(config.to_dict(), path)
        return config
    except VoxstrataError:
        raise
    except Exception as fault:  # a stranger's settings fail in as many ways as there are settings
        reason = str(fault).partition("\n")[0]
        raise CheckpointError(
            f"cannot use {path}: {reason.rstrip('. ') or type(fault).__name__}; if the checkpoint is "
            "a wrapper's, name an encoder of the same architecture beside it (architecture)"
        ) from None


def read_normalize(folder: Path) -> bool | None:
    """Whether the folder's preprocessor normalises waveforms; None if it does not tell.

    Raises:
        CheckpointError: if preprocessor_config.json is not JSON, or do_normalize neither true nor false.
    """
    path = folder / PREPROCESSOR
    if not path.is_file():
        return None
    stated = read_json_object(path, error=CheckpointError, advice="fetch it again, or remove it")
    normalize = stated.get("do_normalize")
    if not isinstance(normalize, bool | None):
        raise CheckpointError(
            f"{path} has do_normalize {str(normalize)[:40]!r}; allowed are true and false: fetch it again"
        )
    return normalize


def write_model_folder(
    folder: Path,
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    preprocessor: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    extras: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a model folder; its files appear only when all of them are written.

    Args:
        folder: new or empty, or one that was written here and holds nothing else.
        config: with `architectures` set.
        tensors: in the model's own names.
        preprocessor: content of preprocessor_config.json.
        dtype: of the stored floating-point tensors; None keeps theirs.
        extras: file name -> JSON content of further files.
        overwrite: the folder may hold anything; files of other names stay.

    Raises:
        CheckpointError: if the folder holds something else, is a file, or cannot be written.
    """
    files = {PREPROCESSOR: preprocessor, **(extras or {})}
    require_free(folder, overwrite=overwrite or _is_ours(folder, files), error=CheckpointError)
    stored = {name: _storable(tensor, dtype) for name, tensor in tensors.items()}
    config = copy.deepcopy(config)
    config.dtype = next(t.dtype for t in stored.values() if t.is_floating_point())
    with written_whole(folder, keep=True, failures=(SafetensorError,), error=CheckpointError) as partial:
        partial.mkdir()
        save_file(stored, partial / WEIGHTS, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read.
        (partial / WEIGHTS).chmod(0o644)
        config.to_json_file(partial / CONFIG)
        for name, content in files.items():
            (partial / name).write_text(_text(content), encoding="utf-8")


def _is_ours(folder: Path, files: Collection[str]) -> bool:
    """Whether a folder holds what `write_model_folder` wrote, and nothing else.

    Told from preprocessor_config.json: transformers writes its keys in alphabetical order.
    """
    path = folder / PREPROCESSOR
    if not path.is_file() or not {found.name for found in folder.iterdir()} <= {CONFIG, WEIGHTS, *files}:
        return False
    try:
        stated = read_json_object(path)
    except VoxstrataError:
        return False
    return next(iter(stated), None) == _FIRST_KEY and path.read_text(encoding="utf-8") == _text(stated)


def _text(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def _storable(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().to(device="cpu", dtype=dtype if tensor.is_floating_point() else None)
    return tensor.contiguous()
