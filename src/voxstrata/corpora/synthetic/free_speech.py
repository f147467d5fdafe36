"""Speech beyond the lexicon: spelled words, numbers and words that do not exist.

Pre-training hears phonemes in orders that no list of sentences has, and the letters and numbers that
people dictate.
"""

from __future__ import annotations

import string

import numpy as np

from voxstrata.corpora.synthetic.lexicon import Sentence
from voxstrata.corpora.synthetic.partition import split_of

ONSETS = (
    *("", "", "b", "bl", "br", "ch", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gl", "gr", "h", "j", "k"),
    *("l", "m", "n", "p", "pl", "pr", "qu", "r", "s", "sc", "sh", "sk", "sl", "sm", "sn", "sp", "st", "str"),
    *("sw", "t", "th", "tr", "tw", "v", "w", "y", "z"),
)
NUCLEI = (
    "a",
    "e",
    "i",
    "o",
    "u",
    "ai",
    "ay",
    "ea",
    "ee",
    "oa",
    "oi",
    "oo",
    "ou",
    "ow",
    "ar",
    "er",
    "or",
    "y",
)
CODAS = (
    *("", "", "", "b", "ck", "ct", "d", "ff", "ft", "g", "l", "lk", "lt", "m", "mp", "n", "nd", "ng", "nk"),
    *("nt", "p", "pt", "r", "s", "sh", "sk", "ss", "st", "t", "tch", "th", "v", "x", "z"),
)
ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september", "october"),
    *("november", "december"),
)


def draw_free(rng: np.random.Generator, *, split: str) -> Sentence:
    """Draws free speech that belongs to a split: half made-up words, a quarter each letters and numbers.

    Args:
        rng: random stream.
        split: "train", "dev" or "test".
    """
    while True:
        kind = int(rng.integers(4))
        words = _letters(rng) if kind == 0 else _numbers(rng) if kind == 1 else _made_up(rng)
        text = " ".join(words)
        if split_of(f"sentence {text}") == split:
            return Sentence(text, text, -1, None)


def draw_numbers(rng: np.random.Generator, *, split: str) -> Sentence:
    """Draws two to five spoken numbers, at times behind a month, that belong to a split.

    Args:
        rng: random stream.
        split: "train", "dev" or "test".
    """
    while True:
        text = " ".join(_numbers(rng))
        if split_of(f"sentence {text}") == split:
            return Sentence(text, text, -1, None)


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _made_up(rng: np.random.Generator) -> list[str]:
    return [
        "".join(
            _one(rng, ONSETS) + _one(rng, NUCLEI) + _one(rng, CODAS)
            for _ in range(int(rng.choice(3, p=(0.45, 0.4, 0.15))) + 1)
        )
        for _ in range(int(rng.integers(3, 8)))
    ]


def _letters(rng: np.random.Generator) -> list[str]:
    return [_one(rng, tuple(string.ascii_lowercase)) for _ in range(int(rng.integers(3, 10)))]


def _numbers(rng: np.random.Generator) -> list[str]:
    words: list[str] = [_one(rng, MONTHS)] if rng.random() < 0.3 else []
    for _ in range(int(rng.integers(2, 6))):
        kind = int(rng.integers(5))
        if kind == 0:
            words += [_one(rng, TENS), _one(rng, ONES)]
        elif kind == 1:
            words += [_one(rng, ONES), "hundred", *([_one(rng, TENS)] if rng.random() < 0.5 else [])]
        else:
            words.append(_one(rng, (TEENS, ONES, ("zero", "oh", "thousand", *ONES))[kind - 2]))
    return words
