"""A model folder as plain transformers reads it: config.json, model.safetensors, preprocessor_config.json."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from voxstrata.errors import CheckpointError, VoxstrataError


def read_config(folder: Path) -> PretrainedConfig:
    """The model configuration of a folder.

    Raises:
        CheckpointError: if there is none, or it is of no known model type.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json as transformers saves one; give such a folder, or name an "
            "encoder of the same architecture beside it (architecture)"
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, StrictDataclassError) as fault:
        reason = str(fault).partition("\n")[0]
        raise CheckpointError(
            f"cannot use {folder / 'config.json'}: {reason.rstrip('. ')}; if the checkpoint is "
            "a wrapper's, name an encoder of the same architecture beside it (architecture)"
        ) from None


def read_normalize(folder: Path) -> bool | None:
    """Whether the folder's preprocessor normalises waveforms; None if it does not tell.

    Raises:
        CheckpointError: if preprocessor_config.json is not JSON.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("do_normalize")
    except (ValueError, AttributeError):
        raise CheckpointError(f"{path} is not a JSON object; fetch it again, or remove it") from None


def write_model_folder(
    folder: Path,
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    preprocessor: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model folder; its files appear only when all of them are written.

    Args:
        folder: made if need be; other files in it stay.
        config: with `architectures` set.
        tensors: in the model's own names.
        preprocessor: content of preprocessor_config.json.
        dtype: of the stored floating-point tensors; None keeps theirs.
        extras: file name -> JSON content of further files.

    Raises:
        VoxstrataError: if the folder cannot be written.
    """
    stored = {name: _storable(tensor, dtype) for name, tensor in tensors.items()}
    config = copy.deepcopy(config)
    config.dtype = next(t.dtype for t in stored.values() if t.is_floating_point())
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    files = {"preprocessor_config.json": preprocessor, **(extras or {})}
    try:
        partial.mkdir(parents=True)
        save_file(stored, partial / "model.safetensors", metadata={"format": "pt"})
        # safetensors makes files that only their owner can read.
        (partial / "model.safetensors").chmod(0o644)
        config.to_json_file(partial / "config.json")
        for name, content in files.items():
            (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir()):
            file.replace(folder / file.name)
    except (OSError, SafetensorError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise VoxstrataError(
            f"cannot write {folder}: {reason}; free space or choose another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _storable(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().to(device="cpu", dtype=dtype if tensor.is_floating_point() else None)
    return tensor.contiguous()
