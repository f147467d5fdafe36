"""Tensors of torch files are read one by one: what was mapped for one does not stay resident."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from voxstrata.backbone.torch_files import load_tensors, read_apart

MEASURE = """
import re, sys, torch
from pathlib import Path
from voxstrata.backbone.torch_files import load_tensors, read_apart
def resident():
    # Of the file alone: libraries that are mapped in passing would count too.
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(sys.argv[1])
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found
state = load_tensors(Path(sys.argv[1]))
before = resident()
total = 0.0
for name in state:
    tensor = state[name].clone() if sys.argv[2] == "plain" else read_apart(state[name])
    total += float(tensor.double().sum())
print(resident() - before, total)
"""


def test_read_tensors_leave_nothing_mapped_behind_and_can_be_read_again(tmp_path):
    if sys.platform != "linux":
        pytest.skip("where it is not known what is mapped, nothing is given back")
    path = tmp_path / "model.bin"
    state = {f"w{k}": torch.full((1024, 1024), float(k)) for k in range(8)}  # 32 MB
    torch.save(state, path)
    found = {}
    for way in ("plain", "apart"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), way], capture_output=True, text=True, check=True
        )
        grown, total = done.stdout.split()
        found[way] = int(grown)
        assert float(total) == sum(range(8)) * 1024**2
    assert found["plain"] > 2.5e7 and found["apart"] < 5e6
    loaded = load_tensors(path)
    for _ in range(2):
        assert all(torch.equal(read_apart(loaded[name]), tensor) for name, tensor in state.items())


@pytest.mark.parametrize("legacy", [False, True])
def test_parts_of_a_tensor_and_old_files_are_read_as_they_are(tmp_path, legacy):
    path = tmp_path / "model.bin"
    whole = torch.arange(3 * 4096, dtype=torch.float32)
    state = {"all": whole, "part": whole[4000:9000], "columns": whole.view(3, 4096).T, "none": torch.empty(0)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_tensors(path)
    for _ in range(2):
        for name, tensor in state.items():
            assert torch.equal(read_apart(loaded[name]), tensor)
