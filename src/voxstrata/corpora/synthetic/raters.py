"""Annotators who do not always agree: votes drawn from a noisy-rater model."""

from __future__ import annotations

import numpy as np

from voxstrata.corpora.synthetic.delivery import nearest
from voxstrata.corpora.synthetic.partition import generator
from voxstrata.labels import EMOTIONS

#: Raters who share the work of every corpus.
POOL = 40


def reliability(rater: int) -> float:
    """How often a rater is right on a clip of middling clarity, in [0.45, 0.9]; a function of the rater."""
    return 0.45 + 0.45 * float(generator("rater", rater).beta(3, 2))


def draw_votes(rng: np.random.Generator, emotion: str, raters: int) -> dict[str, int]:
    """Votes of different raters on one clip, most votes first.

    A clip has a clarity of its own, a rater a reliability; who misses takes an emotion that sounds alike
    more often than one that does not (halved weight with each rank). This is the model of Dawid and Skene
    (1979) with an item effect.

    Args:
        rng: random stream of the clip.
        emotion: what the speaker intended.
        raters: how many vote.
    """
    clarity = 0.7 + 0.4 * rng.random()
    others = nearest(emotion)
    weights = 0.5 ** np.arange(len(others))
    votes = dict.fromkeys(EMOTIONS, 0)
    for rater in rng.choice(POOL, size=raters, replace=False):
        hit = rng.random() < min(1.0, clarity * reliability(int(rater)))
        miss = others[int(rng.choice(len(others), p=weights / weights.sum()))]
        votes[emotion if hit else miss] += 1
    return {e: n for e, n in sorted(votes.items(), key=lambda vote: (-vote[1], vote[0])) if n}
