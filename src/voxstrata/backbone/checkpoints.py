"""Reading the backbone out of a checkpoint of any supported layout, strictly.

The layout is detected by content: the key that ends in `encoder.layers.0.attention.q_proj.weight` tells
the prefix. Tensors are read one at a time, so that never more than one is held beside the result.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxstrata.backbone.groups import layer_index
from voxstrata.errors import CheckpointError

_ANCHOR = "encoder.layers.0.attention.q_proj.weight"
_UNILM_ANCHOR = "encoder.layers.0.self_attn.q_proj.weight"
_BACKBONE_PARTS = ("feature_extractor.", "feature_projection.", "encoder.", "adapter.", "masked_spec_embed")
#: Used in pre-training only: a checkpoint may lack it, or have it where the model does not.
_OPTIONAL = ("masked_spec_embed",)
_SPELLINGS = (
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are listed, not yet read.

    Args:
        path: the file that holds (or indexes) the tensors.
        container: "safetensors", "sharded safetensors" or "torch".
        prefix: what stands before the backbone's own names, e.g. "wavlm.".
        shapes: backbone name -> shape.
        left_out: stored names outside the backbone, e.g. a task head's.
        stored: backbone name -> stored name.
        read: reads one tensor by its stored name.
    """

    path: Path
    container: str
    prefix: str
    shapes: Mapping[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    stored: Mapping[str, str]
    read: Callable[[str], Tensor]

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return max(map(layer_index, self.shapes))

    def tensor(self, name: str) -> Tensor:
        """One tensor by its backbone name; floating-point ones as a float32 copy on the CPU."""
        tensor = self.read(self.stored[name])
        return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Refuses a checkpoint that does not hold exactly a model's tensors.

        Only `masked_spec_embed` may be absent or superfluous: outside pre-training it has no effect.

        Args:
            expected: the model's tensors by name.

        Raises:
            CheckpointError: naming the number of layers, or the missing, superfluous or misshapen tensors.
        """
        layers = max(map(layer_index, expected))
        if self.num_layers != layers:
            raise CheckpointError(
                f"{self.path} has {self.num_layers} transformer layers, but the model has {layers}; "
                "choose the checkpoint and the model of one architecture and size"
            )
        missing = [name for name in expected if name not in self.shapes and name not in _OPTIONAL]
        if missing:
            raise CheckpointError(
                f"{self.path} lacks {_some(missing)} of the model; was it saved in part, or from another "
                "architecture?"
            )
        extra = [name for name in self.shapes if name not in expected and name not in _OPTIONAL]
        if extra:
            raise CheckpointError(
                f"{self.path} holds {_some(extra)} that the model has not; it is another architecture or size"
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items() if name in self.shapes}
        wrong = [
            f"{n} {self.shapes[n]} for {shape}" for n, shape in shapes.items() if self.shapes[n] != shape
        ]
        if wrong:
            raise CheckpointError(
                f"{self.path} has other shapes than the model: {_some(wrong)}; it is another size"
            )


def open_checkpoint(path: Path) -> Checkpoint:
    """Lists the tensors of a checkpoint.

    Args:
        path: a file (.safetensors, .safetensors.index.json, .bin, .pt, .ckpt), or a folder with one.

    Raises:
        CheckpointError: if it cannot be read, or holds no speech encoder in transformers' names.
    """
    file = _weights_file(path)
    if file.name.endswith(".index.json"):
        container, (shapes, read) = "sharded safetensors", _open_sharded(file)
    elif file.suffix == ".safetensors":
        container, (shapes, read) = "safetensors", _open_safetensors({file: None})
    else:
        container, (shapes, read) = "torch", _open_torch(file)
    prefix = _prefix(shapes, file)
    stored: dict[str, str] = {}
    left_out = []
    for key in shapes:
        name = _canonical(key[len(prefix) :]) if key.startswith(prefix) else ""
        if not name.startswith(_BACKBONE_PARTS):
            left_out.append(key)
        elif name in stored:
            raise CheckpointError(f"{file} holds {name} twice, as {stored[name]} and as {key}; remove one")
        else:
            stored[name] = key
    return Checkpoint(
        path=file,
        container=container,
        prefix=prefix,
        shapes={name: shapes[key] for name, key in stored.items()},
        left_out=tuple(left_out),
        stored=stored,
        read=read,
    )


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    kind = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {kind} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def _canonical(name: str) -> str:
    for pattern, spelling in _SPELLINGS:
        name = pattern.sub(spelling, name)
    return name


def _prefix(keys: Iterable[str], file: Path) -> str:
    keys = list(keys)
    prefixes = [key[: -len(_ANCHOR)] for key in keys if key.endswith(_ANCHOR)]
    if len(prefixes) == 1:
        return prefixes[0]
    if prefixes:
        raise CheckpointError(f"{file} holds {len(prefixes)} encoders, under {prefixes}; keep one of them")
    if any(key.endswith(_UNILM_ANCHOR) for key in keys):
        raise CheckpointError(
            f"{file} names its tensors as fairseq/unilm does; convert it to transformers' names first "
            "(transformers has a script for it beside each model)"
        )
    raise CheckpointError(
        f"{file} holds no speech encoder: none of its {_some(keys)} ends in {_ANCHOR}; "
        "give a WavLM, wav2vec 2.0 or HuBERT checkpoint of transformers"
    )


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}; give a folder, or a .safetensors, .bin or .pt file")
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    found = sorted(f for ending in ("safetensors", "bin", "pt") for f in path.glob(f"*.{ending}"))
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{path} holds {len(found)} weight files {[f.name for f in found][:4]}, none called "
        "model.safetensors or pytorch_model.bin; give the file itself"
    )


_Opened = tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]


def _open_safetensors(files: Mapping[Path, set[str] | None]) -> _Opened:
    """Files with the keys that are wanted of each (None = all)."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    where: dict[str, Any] = {}
    for file, wanted in files.items():
        try:
            handle = safe_open(file, framework="pt")
            keys = set(handle.keys())
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"cannot read {file} as safetensors: {fault}; fetch it again") from None
        if wanted is not None and not wanted <= keys:
            raise CheckpointError(f"{file} lacks {_some(sorted(wanted - keys))} that its index names")
        for key in sorted(keys if wanted is None else wanted):
            shapes[key] = tuple(handle.get_slice(key).get_shape())
            where[key] = handle
    return shapes, lambda key: where[key].get_tensor(key)


def _open_sharded(index: Path) -> _Opened:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files: dict[Path, set[str] | None] = {}
        for key, name in places.items():
            wanted = files.setdefault(index.parent / name, set())
            assert wanted is not None
            wanted.add(key)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f'{index} is no index of shards; it needs a "weight_map" object') from None
    return _open_safetensors(files)


def _open_torch(file: Path) -> _Opened:
    """Reads tensors only: a file that would run code on loading is refused."""
    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of torch < 1.6 cannot be memory-mapped
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file} holds Python objects beside tensors and is not unpickled for safety; "
            "save its state_dict alone, best as safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as fault:
        reason = str(fault).partition("\n")[0] or "it ends too early"
        raise CheckpointError(f"cannot read {file}: {reason}; fetch it again") from None
    state = _state_dict(content)
    return {key: tuple(tensor.shape) for key, tensor in state.items()}, state.__getitem__


def _state_dict(content: object) -> dict[str, Tensor]:
    """The tensors of a state dict, which may stand alone or one level deeper ("model", "state_dict")."""
    found: dict[str, Tensor] = {}
    for nested in [content, *(content.values() if isinstance(content, Mapping) else [])]:
        if isinstance(nested, Mapping):
            state = {str(key): value for key, value in nested.items() if isinstance(value, Tensor)}
            if any(key.endswith((_ANCHOR, _UNILM_ANCHOR)) for key in state):
                return state
            found = found or state
    return found
