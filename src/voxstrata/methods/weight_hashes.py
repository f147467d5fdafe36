"""Hashes of a model folder's weights in its model.json: no file of another model in the place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxstrata.backbone.fingerprint import file_sha256
from voxstrata.errors import CheckpointError

KEY = "weights"
_ENDING = ".safetensors"


def weight_hashes(folder: Path) -> dict[str, str]:
    """Every file of weights, relative to the folder -> SHA-256 of its bytes, in hexadecimal.

    Raises:
        CheckpointError: if one cannot be read.
    """
    return {name: file_sha256(path) for name, path in _files(folder).items()}


def require_saved(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuses weights that are not those which model.json was written with.

    Args:
        folder: of the model.
        about: content of its model.json; one of an older version tells of no hashes, and passes.

    Raises:
        CheckpointError: naming the files that are others or gone.
    """
    if KEY not in about:
        return
    stated, advice = about[KEY], f"fetch or train the model again (or remove {KEY!r} from model.json)"
    if not isinstance(stated, Mapping) or not stated:
        raise CheckpointError(f"{folder / 'model.json'} lacks the hashes of its weights; {advice}")
    files = _files(folder)
    changed = [
        name for name, expected in stated.items() if name not in files or file_sha256(files[name]) != expected
    ]
    if changed:
        raise CheckpointError(
            f"{folder / changed[0]} is not the file that model.json beside it was written with (another "
            f"SHA-256); {advice}"
        )


def _files(folder: Path) -> dict[str, Path]:
    """Weights by their names relative to the folder."""
    files = sorted(path for path in folder.rglob(f"*{_ENDING}") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}
