"""Idle memory of the C library's heap goes back to the system when there is too much of it."""

import subprocess
import sys

import pytest

HEAP = """
from pathlib import Path
import numpy as np
from voxstrata.methods.adaltm.lean.heap import Heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

heap = Heap()
heap.give_back()
if heap._elsewhere is None:
    raise SystemExit("only glibc from 2.33 on tells what is in use")
start = resident()
# 64 MB in blocks below the size that glibc maps; every second is kept, so that nothing leaves by itself.
blocks = [np.ones(2**13) for _ in range(1024)]
heap.give_back(allowed=4_000_000)
del blocks[::2]
heap.give_back(allowed=4_000_000)
print(resident() - start)  # no more than was in use
blocks += [np.ones(3 * 2**12) for _ in range(512)]
heap.give_back(allowed=100_000_000)
print(resident() - start)  # more, but it is allowed
# The last block stays, so that glibc does not give the end of the heap back by itself.
del blocks[256:-1]
heap.give_back(allowed=10_000_000)
print(resident() - start)
"""


def test_idle_memory_is_given_back_where_more_is_resident_than_was_ever_in_use():
    # In a process of its own, where nothing else is on the heap.
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=False)
    if "only glibc" in done.stderr:
        pytest.skip(done.stderr)
    idle, allowed, given_back = (int(line) / 1e6 for line in done.stdout.split())
    assert 60 < idle < 75 and 80 < allowed < 130 and given_back < 30, done.stdout + done.stderr
