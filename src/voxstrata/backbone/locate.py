"""Where a named model lies: packaged with voxstrata, a folder or file, or the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from voxstrata.errors import CheckpointError, did_you_mean

_WEIGHTS = Path(__file__).parent.parent / "weights"
#: Where an encoder lies in a run folder, in a model folder, and in a plain transformers folder.
_PLACES = ("model/encoder", "encoder", ".")
#: Weight files of the hub that are no safetensors.
_TORCH_FILES = ("pytorch_model.bin", "adapter_model.bin", "wav2vec2.ckpt", "final_ssl.pt")
#: What tells the words of a CTC head or a decoder, beside tokenizer_config.json.
_TOKENIZER_FILES = (
    *(
        "vocab.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.json",
        "merges.txt",
        "normalizer.json",
    ),
)
#: What tells of a model's licence and base.
_ABOUT = ("README.md", "LICENSE*", "NOTICE")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
#: The folder that runs lie in, unless another is given.
_RUNS = "runs"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def packaged_names() -> tuple[str, ...]:
    """Names of the encoders and models that come with the package."""
    return tuple(
        sorted(path.name for path in _WEIGHTS.glob("*") if (_encoder_in(path) / "config.json").is_file())
    )


def packaged(name: str) -> Path | None:
    """The folder of a packaged encoder or model."""
    return _WEIGHTS / name if name in packaged_names() else None


def _encoder_in(folder: Path) -> Path:
    found = (folder / place for place in _PLACES if (folder / place / "config.json").is_file())
    return next(found, folder)


def locate(name: str | Path, *, download: bool = True) -> Path:
    """The folder or file of a model.

    In a run's folder or model folder that is the encoder. A packaged name wins over a folder of the same
    name; write `./name` for the folder. What is neither is taken for a hub id and downloaded (or found in
    the hub's cache).

    Args:
        name: a packaged name, a folder or file, or a hub id.
        download: whether what is not here yet may be fetched.

    Raises:
        CheckpointError: if there is nothing of that name.
    """
    if isinstance(name, str) and (folder := packaged(name)) is not None:
        return _encoder_in(folder)
    path = Path(name)
    if path.name in _INDICES and path.is_file():
        # An index stands for all that lies beside it.
        path = path.parent
    try:
        there = path.exists()
    except (OSError, ValueError) as fault:
        raise CheckpointError(f"cannot look for {str(path)[:80]!r}: {fault}; give a folder or file") from None
    if there:
        return _encoder_in(path)
    if _RUNS in path.parts[:-1]:
        raise CheckpointError(
            f"no run or checkpoint at {name}; train it first, or give a folder, a hub id, or {_packaged()}"
        )
    if isinstance(name, Path) or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"no model folder or file at {name}; give a folder, a hub id, or {_packaged()}")
    return _download(name, local_only=not download)


def here(source: str | Path) -> Path:
    """The folder of a model that is here already; a folder is what it is, with its decoder and heads.

    Raises:
        CheckpointError: if there is nothing of that name, and no downloaded model.
    """
    folder = Path(source)
    return folder if folder.is_dir() else locate(folder.as_posix(), download=False)


def with_config(source: str | Path) -> Path | None:
    """The folder of a model that is here already, if transformers' config.json lies in it; else None."""
    try:
        folder = here(source)
    except CheckpointError:
        return None
    return folder if (folder / "config.json").is_file() else None


def is_missing_run(name: str) -> bool:
    """Whether a name that is not there is of a run or a checkpoint here, and not of a model of the hub.

    That is so below a folder `runs`, and in any folder that is here.
    """
    path = Path(name)
    try:
        if packaged(name) is not None or path.exists():
            return False
        return _RUNS in path.parts[:-1] or (len(path.parts) > 1 and path.parent.is_dir())
    except (OSError, ValueError):
        # No name of a file: `locate` says so.
        return False


def _packaged() -> str:
    return "a packaged name" + (f" ({', '.join(packaged_names())})" if packaged_names() else "")


def _download(name: str, *, local_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        wanted = ["*config.json", *_TOKENIZER_FILES, *_ABOUT, *patterns]
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=local_only))

    try:
        folder = fetch("*.safetensors", "*.safetensors.index.json")
        return folder if any(folder.glob("*.safetensors")) else fetch(*_TORCH_FILES)
    except (OSError, ValueError) as fault:
        begin = f"no run or checkpoint at {name}: it" if is_missing_run(name) else name
        near = did_you_mean(name, packaged_names())
        if local_only:
            raise CheckpointError(
                f"{begin} is no folder here and not in the Hugging Face cache{near}; fetch it: "
                f"hf download {name}"
            ) from None
        reason = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise CheckpointError(
            f"{begin} is no folder here and cannot be had from the Hugging Face hub ({reason}){near}; "
            f"give a folder, an id the hub knows (and a connection), or {_packaged()}"
        ) from None
