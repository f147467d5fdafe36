"""Which clips stand together in a batch, and in which order: a pure function of (seed, epoch)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import nsmallest
from itertools import pairwise

from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from lhotse.dataset.sampling import SimpleCutSampler

# lhotse's bucketing samplers keep a state; a plan that follows from (seed, epoch) needs none to resume.
#: With fewer, the same clips would meet in the same batches in every epoch.
_BATCHES_PER_BUCKET = 4


def derived_seed(*parts: object) -> int:
    """A seed from several parts, so that no two tuples of parts share a stream (seed + epoch would).

    >>> derived_seed(0, 1) == derived_seed(1, 0), derived_seed(0, 1) == derived_seed(0, 1)
    (False, True)
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big")


def drawn_ids(ids: Iterable[str], limit: int, seed: object) -> set[str]:
    """Some of the ids, by a hash of seed and id: the same ones whatever their order."""
    return set(nsmallest(limit, ids, key=partial(derived_seed, seed)))


def drawn(found: Callable[[], Iterable[Cut]], limit: int, seed: object = "limit") -> Iterator[Cut]:
    """Some of the clips, as `drawn_ids` draws them, in their order.

    Args:
        found: gives the clips, one at a time, at each call.
        limit: at most so many.
        seed: of the draw.
    """
    kept = drawn_ids((cut.id for cut in found()), limit, seed)
    return (cut for cut in found() if cut.id in kept)


def plan_epoch(
    lengths: Sequence[tuple[str, float]],
    *,
    batch_size: int,
    buckets: int,
    shuffle: bool,
    seed: int,
    epoch: int,
) -> list[list[str]]:
    """Groups clips into batches of similar length.

    Args:
        lengths: (clip id, duration in seconds) of every clip; ids are unique.
        batch_size: clips a batch, at most; only the last batch of the longest clips may hold fewer.
        buckets: groups of similar duration within which clips are shuffled, at most.
        shuffle: random order; otherwise from short to long, the same in every epoch.
        seed: stream of random numbers.
        epoch: epoch index.

    Returns:
        Lists of clip ids; every clip occurs exactly once.
    """
    ordered = sorted(lengths, key=lambda pair: (pair[1], pair[0]))
    bounds = _bucket_bounds(len(ordered), batch_size, buckets) if shuffle else [0, len(ordered)]
    plan = []
    for number, (start, end) in enumerate(pairwise(bounds)):
        cuts = [
            MonoCut(id=clip, start=0.0, duration=duration_s, channel=0)
            for clip, duration_s in ordered[start:end]
        ]
        sampler = SimpleCutSampler(
            CutSet(cuts),
            max_cuts=batch_size,
            shuffle=shuffle,
            seed=derived_seed(seed, epoch, number),
            # Else read from a launcher's environment, and other ranks' batches are dropped.
            world_size=1,
            rank=0,
        )
        plan += [[cut.id for cut in batch] for batch in sampler]
    if shuffle:
        random.Random(derived_seed(seed, epoch, "order")).shuffle(plan)
    return plan


def _bucket_bounds(clips: int, batch_size: int, buckets: int) -> list[int]:
    """Where buckets of whole batches begin and end in the clips sorted by length."""
    batches = -(-clips // batch_size)
    count = max(1, min(buckets, batches // _BATCHES_PER_BUCKET))
    return [min(clips, batches * i // count * batch_size) for i in range(count + 1)]
