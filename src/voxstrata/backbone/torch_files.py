"""Torch files: what they hold, without running it, in memory bounded by the size of the file."""

from __future__ import annotations

import argparse
import ctypes
import mmap
import pickle
import re
import sys
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from voxstrata.errors import CheckpointError

_ZIP = b"PK\x03\x04"
#: Begin of a pickle of protocol 2 or later: files of torch before 1.6.
_PICKLE = b"\x80"
#: What such a file of torch has in its first bytes: a pickled number.
_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19."
#: Begins of pickles before that.
_OLD_PICKLES = (b"(", b"c", b"]", b"}")
#: Allowed by torch, and takes as many bytes as it is given.
_GROWS = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")
#: Bytes that "little" and "big" have at most, with what may stand around them.
_LARGEST_WORD = 16
#: Of an old torch file, the part that is looked through for it.
_LOOKED_AT = 1 << 24


def load_tensors(file: Path) -> object:
    """Content of a torch file; of Python's objects only argparse.Namespace is built, a mere bag of values.

    Raises:
        CheckpointError: if it is none, is broken, holds other objects, or unpacks to more than it is.
    """
    zipped = _check_kind(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Only files of torch >= 1.6 can be memory-mapped.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as fault:
        kind = re.search(r"GLOBAL ([\w.]+)", str(fault))
        if kind is None and not re.search(r"\bclass\b|Can only", str(fault)):
            raise CheckpointError(f"cannot read {file}: its pickle is broken; fetch it again") from None
        raise CheckpointError(
            f"{file} holds Python objects beside tensors{f' ({kind[1]})' if kind else ''} and is not "
            "unpickled for safety; save its state_dict alone where you trust the file, best as safetensors"
        ) from None
    except Exception as fault:  # a file of a stranger: its reader fails in as many ways as there are
        reason = str(fault).partition("\n")[0] or "it ends too early"
        raise CheckpointError(f"cannot read {file}: {reason}; fetch it again") from None


def read_apart(tensor: Tensor) -> Tensor:
    """A tensor of a mapped file, in memory of its own; what was mapped for it is given back.

    Without that, all that was read of a file stays resident, until the system needs the room.
    """
    copied = tensor.clone()
    start, length = tensor.data_ptr(), _bytes(tensor) - int(tensor.storage_offset()) * tensor.element_size()
    page = mmap.PAGESIZE
    first, last = -(-start // page) * page, (start + length) // page * page
    if last > first and _is_mapped_file(first, last):
        # Pages of a private map of a file, never written to: they are read again when they are needed.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
    return copied


def _is_mapped_file(first: int, last: int) -> bool:
    """Whether addresses are those of a mapped file, as Linux lists them; elsewhere it is not known: no."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        fields = line.split(maxsplit=5)
        begin, _, end = fields[0].partition("-")
        if int(begin, 16) <= first and last <= int(end, 16):
            return len(fields) == 6 and fields[5].startswith("/")
    return False


def kind_of(tensor: Tensor) -> str:
    """The number format of a tensor, e.g. "float32"; or why it has no values that can be read as they are."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse"
    if tensor.is_meta or _bytes(tensor) > tensor.untyped_storage().nbytes():
        return "larger than the file"
    return str(tensor.dtype).removeprefix("torch.")


def told_by(start: bytes) -> str | None:
    """What a file is that is no checkpoint, by its first bytes; None where they do not tell."""
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the file itself (git lfs pull)"
    if start.startswith(b"\x1f\x8b"):
        return "is compressed by gzip"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<":
        return "is a web page"
    printable = all(byte >= 32 or byte in b"\t\r\n" for byte in start)
    return "is text" if printable and len(start) > 8 else None


def _bytes(tensor: Tensor) -> int:
    values = int(tensor.storage_offset()) + tensor.numel()
    return values * tensor.element_size() if tensor.numel() else 0


def _check_kind(file: Path) -> bool:
    """Whether a torch file can be mapped as it is; what is none, or swells, is refused."""
    try:
        with file.open("rb") as opened:
            head = opened.read(64)
            pickled = head + opened.read(_LOOKED_AT)
        size = file.stat().st_size
    except OSError as fault:
        raise CheckpointError(f"cannot read {file}: {fault.strerror or fault}") from None
    if head.startswith(_ZIP):
        return _check_zip(file, size)
    if _MAGIC in head:
        _refuse_growing(file, pickled)
        return False
    if head.startswith(_PICKLE) or (head[:1] in _OLD_PICKLES and pickled.endswith(b".")):
        raise CheckpointError(
            f"{file} is a plain pickle and is not unpickled for safety; save its state_dict with torch.save "
            "where you trust the file, best as safetensors"
        )
    raise CheckpointError(
        f"cannot read {file}: it {told_by(head) or 'is no file of torch'}; give one that torch.save or "
        "safetensors wrote"
    )


def _check_zip(file: Path, size: int) -> bool:
    """Whether numbers lie in it as they do in memory. Refuses what unpacks to more than the file is."""
    order: str = sys.byteorder
    try:
        with zipfile.ZipFile(file) as packed:
            entries = packed.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise CheckpointError(
                    f"{file} is {size:,} bytes and claims to unpack to "
                    f"{sum(entry.file_size for entry in entries):,}; torch does not compress: save it again "
                    "with torch.save, best as safetensors"
                )
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    _refuse_growing(file, packed.read(entry))
                if entry.filename.endswith("/byteorder") and entry.file_size < _LARGEST_WORD:
                    order = packed.read(entry).decode(errors="replace").strip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as fault:
        raise CheckpointError(f"cannot read {file}: {fault or 'it ends too early'}; fetch it again") from None
    return order == sys.byteorder


def _refuse_growing(file: Path, pickled: bytes) -> None:
    if _GROWS.search(pickled):
        raise CheckpointError(
            f"{file} holds Python objects beside tensors (bytearray) and is not unpickled for safety; save "
            "its state_dict alone where you trust the file, best as safetensors"
        )
