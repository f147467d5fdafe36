"""Which split a voice or a sentence belongs to: a fixed rule, so corpora of different seeds cannot leak."""

from __future__ import annotations

import hashlib

import numpy as np

#: Shares of the hash space that belong to train, dev and test.
TRAIN_SHARE, DEV_SHARE = 0.60, 0.15


def fraction(key: str) -> float:
    """A number in [0, 1) that depends on the text alone.

    >>> fraction("a") == fraction("a") and 0 <= fraction("a") < 1
    True
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def split_of(key: str) -> str:
    """The only split in which this voice or sentence may occur, whatever the seed of the corpus."""
    place = fraction(key)
    if place < TRAIN_SHARE:
        return "train"
    return "dev" if place < TRAIN_SHARE + DEV_SHARE else "test"


def generator(*key: object) -> np.random.Generator:
    """A random stream of its own for each key, e.g. `generator(seed, "words", "train", 17)`."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
