"""What tests of merged files share: checkpoints on disk, and the merge written out in numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from voxstrata.merging.files import FileMerge, merge_request
from voxstrata.merging.request import Expert, MergeRequest

WEIGHTS = "model.safetensors"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, of its only file or of its shards."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= load_file(file)
    return found


def group_of(name: str) -> int:
    """The group of a tensor by its name: a loop of its own, not the package's."""
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) + 1 if "encoder" in parts and "layers" in parts else 0


def by_hand(
    base: Mapping[str, torch.Tensor],
    experts: Sequence[Mapping[str, torch.Tensor]],
    coefficients: Sequence[Sequence[float]],
) -> dict[str, np.ndarray]:
    """W + sum_k c_k(l) (W_k - W) in numpy's float64, rounded once to float32."""
    merged = {}
    for name, weight in base.items():
        start = weight.double().numpy()
        total = start.copy()
        for expert, values in zip(experts, coefficients, strict=True):
            total += values[group_of(name)] * (expert[name].double().numpy() - start)
        merged[name] = total.astype(np.float32)
    return merged


def same(one: Mapping[str, Any], other: Mapping[str, Any], ulps: int = 0) -> None:
    """Equal names and values, to so many units in the last place of float32."""
    assert set(one) == set(other)
    for name, values in one.items():
        a, b = (np.asarray(v.float() if isinstance(v, torch.Tensor) else v) for v in (values, other[name]))
        if ulps:
            np.testing.assert_allclose(a, b, rtol=ulps * 2**-23, atol=ulps * 2**-30, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def request(base: object, method: str = "task-arithmetic", **vectors: tuple[object, Any]) -> MergeRequest:
    experts = {name: Expert(str(path), given) for name, (path, given) in vectors.items()}
    return MergeRequest(str(base), experts, method)


def merged(
    base: object, out: Path, method: str = "task-arithmetic", **vectors: tuple[object, Any]
) -> FileMerge:
    return merge_request(request(base, method, **vectors), out)


def moved(folder: Path, out: Path, seed: int, scale: float = 0.02, **changes: torch.Tensor) -> Path:
    """A copy of a folder whose floating-point tensors have moved a little."""
    out.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            (out / file.name).write_bytes(file.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: value + (scale * torch.randn(value.shape, generator=generator)).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in tensors(folder).items()
    }
    save_file(state | changes, out / WEIGHTS, metadata={"format": "pt"})
    return out


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
