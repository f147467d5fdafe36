"""Random number generators: seeding all of them, and carrying their states through a checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds the generators of Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of all generators, as tensors and plain values that load without unpickling objects.

    Args:
        device: that this process computes on; other GPUs are none of its business.
    """
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Sets all generators back to the states of `random_states`.

    Args:
        states: those of older versions hold a state of each GPU that the process saw.
        device: as there.
    """
    random.setstate(states["python"])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and device.type == "cuda":
        own = min(device.index or 0, len(states["cuda"]) - 1)
        torch.cuda.set_rng_state(states["cuda"][own], device)
