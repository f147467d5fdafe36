"""Files that hold a checkpoint's tensors: which one of a folder, and its tensors one at a time.

Nothing is unpickled but by torch's `weights_only`, which builds tensors and plain values and runs no code.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxstrata.errors import CheckpointError

#: Looked for in a folder, first come first; the second half are the names of SpeechBrain, of the MSP-Podcast
#: challenge's baseline and of s3prl.
_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_SHARDED_BIN = "pytorch_model.bin.index.json"
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_FOREIGN_NAMES = ("wav2vec2.ckpt", "final_ssl.pt", "dev-best.ckpt")
_ENDINGS = ("safetensors", "bin", "pt", "pth", "ckpt")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Container:
    """A file (or an index of files) whose tensors are listed, not yet read.

    Args:
        file: that was opened.
        kind: "safetensors", "sharded safetensors" or "torch".
        shapes: stored name -> shape.
        read: reads one tensor by its stored name.
        entry: of a torch file, the entry that holds the tensors ("model", "Upstream"); "" without one.
        beside: other entries of a torch file, or other weight files of the folder, that hold tensors.
        settings: the entries of a torch file that hold none, e.g. "cfg".
    """

    file: Path
    kind: str
    shapes: Mapping[str, Shape]
    read: Callable[[str], Tensor]
    entry: str = ""
    beside: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def open_container(path: Path, wanted: re.Pattern[str]) -> Container:
    """Lists the tensors of a file, or of the weight file of a folder.

    Args:
        path: a file (.safetensors, .safetensors.index.json, .bin, .pt, .pth, .ckpt), or a folder with one.
        wanted: matches somewhere in a name of the tensors that are looked for, where a torch file has
            several entries.

    Raises:
        CheckpointError: if there is none, or it cannot be read without running what it holds.
    """
    file = weights_file(path)
    if file.name.endswith(".index.json"):
        return Container(file, "sharded safetensors", *_open_sharded(file))
    if file.suffix == ".safetensors":
        return Container(file, "safetensors", *_open_safetensors({file: None}))
    siblings: tuple[str, ...] = ()
    if path.is_dir() and file.name in _FOREIGN_NAMES:
        siblings = tuple(other.name for other in _weight_files(path) if other != file)
    return _open_torch(file, wanted, siblings)


def weights_file(path: Path) -> Path:
    """The file of a checkpoint, given as such or as its folder.

    Raises:
        CheckpointError: if there is none, or it cannot be told which.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}; give a folder, or a .safetensors, .bin or .pt file")
    whole = [path / name for name in _NAMES if (path / name).is_file()]
    adapters = [path / name for name in _ADAPTERS if (path / name).is_file()]
    if whole and adapters:
        raise CheckpointError(
            f"{path} holds both {whole[0].name} and {adapters[0].name}; give the file that is meant"
        )
    foreign = [path / name for name in _FOREIGN_NAMES if (path / name).is_file()]
    if named := whole + adapters + foreign:
        return named[0]
    if (shards := path / _SHARDED_BIN).is_file():
        raise CheckpointError(
            f"{path} holds its weights in several .bin files ({shards.name}), which are not read; load it "
            "with transformers once and save it again, as one or more .safetensors files"
        )
    found = _weight_files(path)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(f"{path} holds no weight file; there should be one {', '.join(_ENDINGS)}")
    raise CheckpointError(
        f"{path} holds {len(found)} weight files {[f.name for f in found][:4]}, none called "
        "model.safetensors or pytorch_model.bin; give the file itself"
    )


def some(names: Iterable[str], most: int = 4) -> str:
    """How many tensors, and the names of the first."""
    names = list(names)
    kind = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {kind} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for ending in _ENDINGS for file in folder.glob(f"*.{ending}"))


_Opened = tuple[dict[str, Shape], Callable[[str], Tensor]]


def _open_safetensors(files: Mapping[Path, set[str] | None]) -> _Opened:
    """Files with the keys that are wanted of each (None = all)."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, Shape] = {}
    where: dict[str, Any] = {}
    for file, wanted in files.items():
        try:
            handle = safe_open(file, framework="pt")
            keys = set(handle.keys())
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"cannot read {file} as safetensors: {fault}; fetch it again") from None
        if wanted is not None and not wanted <= keys:
            raise CheckpointError(f"{file} lacks {some(sorted(wanted - keys))} that its index names")
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


def _open_torch(file: Path, wanted: re.Pattern[str], siblings: tuple[str, ...]) -> Container:
    content = _load_tensors(file)
    entries = {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}
    states = {"": entries, **{key: value for key, value in entries.items() if isinstance(value, Mapping)}}
    tensors = {
        name: {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
        for name, state in states.items()
    }
    fitting = [name for name, state in tensors.items() if any(map(wanted.search, state))]
    if len(fitting) > 1:
        raise CheckpointError(f"{file} holds {len(fitting)} encoders, under {fitting}; keep one of them")
    # Where nothing fits, the first tensors there are serve for the message.
    entry = next(iter(fitting or [name for name, state in tensors.items() if state]), "")
    state = tensors[entry]
    beside = [
        name
        for name, value in entries.items()
        if name != entry and name not in state and _holds_tensors(value)
    ]
    settings = {name: value for name, value in entries.items() if not _holds_tensors(value)}
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return Container(file, "torch", shapes, state.__getitem__, entry, (*beside, *siblings), settings)


def _load_tensors(file: Path) -> object:
    """Content of a torch file; of Python's objects only argparse.Namespace is built, a mere bag of values."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files of torch < 1.6 cannot be memory-mapped
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        kind = re.search(r"GLOBAL ([\w.]+)", str(fault))
        raise CheckpointError(
            f"{file} holds Python objects beside tensors{f' ({kind[1]})' if kind else ''} and is not "
            "unpickled for safety; save its state_dict alone where you trust the file, best as safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as fault:
        reason = str(fault).partition("\n")[0] or "it ends too early"
        raise CheckpointError(f"cannot read {file}: {reason}; fetch it again") from None


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    return any(map(_holds_tensors, value)) if isinstance(value, list | tuple) else isinstance(value, Tensor)
