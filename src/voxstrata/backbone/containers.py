"""Files that hold a checkpoint's tensors: which one of a folder, and its tensors one at a time.

Nothing is unpickled but by torch's `weights_only`, which builds tensors and plain values and runs no code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from voxstrata.backbone.safetensors_files import SafetensorsFile
from voxstrata.backbone.torch_files import kind_of, load_tensors, read_apart, told_by
from voxstrata.documents import read_json
from voxstrata.errors import CheckpointError

#: Looked for in a folder, first come first; the second half are the names of SpeechBrain, of the MSP-Podcast
#: challenge's baseline and of s3prl.
_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_SHARDED_BIN = "pytorch_model.bin.index.json"
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_FOREIGN_NAMES = ("wav2vec2.ckpt", "final_ssl.pt", "dev-best.ckpt")
_ENDINGS = ("safetensors", "bin", "pt", "pth", "ckpt")
#: Characters of the longest name of a tensor.
_LONGEST_NAME = 500

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Container:
    """A file (or an index of files) whose tensors are listed, not yet read.

    Args:
        file: that was opened.
        kind: "safetensors", "sharded safetensors" or "torch".
        shapes: stored name -> shape.
        types: stored name -> number format, e.g. "float32"; or why there are no plain values, see `kind_of`.
        read: reads one tensor by its stored name.
        entry: of a torch file, the entry that holds the tensors ("model", "Upstream"); "" without one.
        beside: other entries of a torch file, or other weight files of the folder, that hold tensors.
        settings: the entries of a torch file that hold none, e.g. "cfg"; texts of a header of safetensors.
        places: stored name -> the file that it lies in, where that is one of several or of safetensors.
    """

    file: Path
    kind: str
    shapes: Mapping[str, Shape]
    types: Mapping[str, str]
    read: Callable[[str], Tensor]
    entry: str = ""
    beside: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)


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
        container = _open_sharded(file)
    elif _is_safetensors(file):
        container = _open_safetensors(file, "safetensors", {file: None})
    else:
        siblings: tuple[str, ...] = ()
        if path.is_dir() and file.name in _FOREIGN_NAMES:
            siblings = tuple(other.name for other in _weight_files(path) if other != file)
        container = _open_torch(file, wanted, siblings)
    if long := [name for name in container.shapes if len(name) > _LONGEST_NAME]:
        raise CheckpointError(
            f"{file} holds {len(long)} tensors whose names are longer than {_LONGEST_NAME} characters, "
            f"{long[0][:40]!r}...; no such checkpoint is known: fetch it again"
        )
    return container


def weights_file(path: Path) -> Path:
    """The file of a checkpoint, given as such or as its folder.

    Raises:
        CheckpointError: if there is none, or it cannot be known which.
    """
    if path.name == _SHARDED_BIN:
        path = path.parent
    if path.is_file():
        return path
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is no plain file and no folder; give a checkpoint's file or folder")
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
    return sorted(file for ending in _ENDINGS for file in folder.glob(f"*.{ending}") if file.is_file())


def _is_safetensors(file: Path) -> bool:
    """By the suffix; by content where that is one of several containers."""
    if file.suffix == ".safetensors":
        return True
    start = _start(file)
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def _open_safetensors(file: Path, kind: str, files: Mapping[Path, set[str] | None]) -> Container:
    """The container of files with the keys that are wanted of each (None = all)."""
    from safetensors import SafetensorError

    where: dict[str, SafetensorsFile] = {}
    metadata: dict[str, str] = {}
    for one, wanted in files.items():
        try:
            opened = SafetensorsFile.open(one)
        except (OSError, SafetensorError) as fault:
            reason = told_by(_start(one)) or f"is none, or not whole ({fault})"
            raise CheckpointError(f"cannot read {one} as safetensors: it {reason}; fetch it again") from None
        if wanted is not None and not wanted <= opened.shapes.keys():
            missing = some(sorted(wanted - opened.shapes.keys()))
            raise CheckpointError(f"{one} lacks {missing} that its index names; fetch it again")
        where |= dict.fromkeys(sorted(opened.shapes.keys() if wanted is None else wanted), opened)
        metadata |= opened.metadata
    return Container(
        file,
        kind,
        {key: opened.shapes[key] for key, opened in where.items()},
        {key: opened.types[key] for key, opened in where.items()},
        lambda key: where[key].read(key),
        settings=metadata,
        places={key: opened.path for key, opened in where.items()},
    )


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(64)
    except OSError as fault:
        raise CheckpointError(f"cannot read {file}: {fault.strerror or fault}") from None


def _open_sharded(index: Path) -> Container:
    content = read_json(index, error=CheckpointError, advice="fetch it again")
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(n, str) for n in places.values()):
        raise CheckpointError(
            f'{index} is no index of shards; it needs a "weight_map" object of tensors and files'
        )
    files: dict[Path, set[str] | None] = {}
    for key, name in places.items():
        wanted = files.setdefault(index.parent / name, set())
        assert wanted is not None
        wanted.add(key)
    names = sorted(set(places.values()))
    if outside := [name for name in names if Path(name).name != name or name in (".", "..")]:
        raise CheckpointError(
            f"{index} names {outside[0]!r}, which is no file of its folder; fetch the checkpoint again"
        )
    if foreign := [name for name in names if not name.endswith(".safetensors")]:
        raise CheckpointError(_unread(index, foreign[0]))
    if gone := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(f"{index} names {gone[0]}, and there is no such file; fetch it too")
    return _open_safetensors(index, "sharded safetensors", files)


def _unread(index: Path, shard: str) -> str:
    return (
        f"{index.parent} holds its weights in several files such as {shard} ({index.name}), of which only "
        ".safetensors are read; load it with transformers once and save it again"
    )


def _open_torch(file: Path, wanted: re.Pattern[str], siblings: tuple[str, ...]) -> Container:
    content = load_tensors(file)
    entries = {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}
    states = {"": entries, **{key: value for key, value in entries.items() if isinstance(value, Mapping)}}
    tensors = {
        # Parameters may be saved as such, and nothing here learns.
        name: {str(key): value.detach() for key, value in state.items() if isinstance(value, Tensor)}
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
    types = {key: kind_of(tensor) for key, tensor in state.items()}

    def read(key: str) -> Tensor:
        return read_apart(state[key])

    return Container(file, "torch", shapes, types, read, entry, (*beside, *siblings), settings)


def _holds_tensors(value: object) -> bool:
    """Whether tensors stand in an entry, at whatever depth; each part is looked at once."""
    left, seen = [value], set[int]()
    while left:
        one = left.pop()
        if isinstance(one, Tensor):
            return True
        if id(one) not in seen and isinstance(one, Mapping | list | tuple):
            seen.add(id(one))
            left += one.values() if isinstance(one, Mapping) else one
    return False
