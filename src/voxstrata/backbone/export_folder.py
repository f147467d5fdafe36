"""The folder that an export is written to: never over something else by mistake, never half."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voxstrata.errors import CheckpointError
from voxstrata.runs import TRAINING_CLIPS, require_free, written_whole

CARD = "README.md"
COEFFICIENTS = "coefficients.json"
ONNX, ONNX_INT8 = "model.onnx", "model.int8.onnx"
#: Stands in every card that is written here, so that nobody else's README is taken for one.
CARD_MARK = "<!-- card of a voxstrata export -->"
#: What an older export left, so that nothing of it stays beside a newer one.
_FILES = (
    *("config.json", "model.safetensors", "preprocessor_config.json", COEFFICIENTS),
    *("coefficients.svg", "coefficients-words.svg", "model.json", "head.safetensors", TRAINING_CLIPS),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"),
    *("added_tokens.json", "normalizer.json", "generation_config.json", ONNX, ONNX_INT8),
)
_FOLDERS = ("encoder", "vectors")
#: All that lies at the top of an export.
PARTS = frozenset((*_FILES, *_FOLDERS, CARD))


@contextmanager
def export_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Lets a folder be written aside, and puts what is in it in its place once all of it is written.

    Args:
        folder: new or empty, or to be overwritten: then an older export in it goes, and other files stay.
        overwrite: whether it may hold anything.

    Yields:
        The path to write to; nothing lies there yet.

    Raises:
        CheckpointError: if the folder holds something and is not to be overwritten, is a file, or cannot be
            written.
    """
    require_free(folder, overwrite=overwrite, error=CheckpointError)
    with written_whole(folder, keep=True, error=CheckpointError) as partial:
        yield partial
        if folder.is_dir():
            _require_room(folder, partial)
            _remove_older(folder)


def _require_room(folder: Path, partial: Path) -> None:
    """Refuses a folder with other things where folders of the export are to lie."""
    for path in partial.iterdir():
        there = folder / path.name
        if there.exists() and (path.is_dir() or there.is_dir()) and not _is_older(there):
            raise CheckpointError(
                f"{there} is no part of an older export, so it is not overwritten; move it, or give another "
                "folder"
            )


def _remove_older(folder: Path) -> None:
    for name in (*_FOLDERS, *_FILES, CARD):
        path = folder / name
        if not _is_older(path):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_older(path: Path) -> bool:
    """Whether something is a part of an older export."""
    if path.name in _FOLDERS:
        return path.is_dir() and not path.is_symlink() and (path.parent / "model.json").is_file()
    if path.name == CARD and path.is_file():
        return CARD_MARK in path.read_text(encoding="utf-8", errors="replace")
    return path.name in _FILES and path.is_file()
