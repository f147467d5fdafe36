"""What each merge method is tried with: as many settings of each, so that none is tuned more than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from voxstrata.errors import RecipeError, did_you_mean
from voxstrata.merging.rules.registry import RULES

#: Names of the two experts' vectors in a merge.
EMOTIONS, WORDS = "emotions", "words"


@dataclass(frozen=True)
class Setting:
    """A merge of two experts.

    Args:
        method: name of a merge rule.
        emotions: coefficient of the expert for emotions; of an average its weight.
        words: of the expert for words.
        options: of the rule.
    """

    method: str
    emotions: float
    words: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def described(self) -> str:
        """In words, for tables.

        >>> Setting("ties", 1.0, 0.7, {"density": 0.2}).described()
        'emotions 1, words 0.7, density 0.2'
        """
        parts = {EMOTIONS: f"{self.emotions:g}", WORDS: f"{self.words:g}", **self.options}
        return ", ".join(f"{name} {value}" for name, value in parts.items())


#: What is not tuned, and stands beside the methods.
REFERENCES = {
    "base": Setting("task-arithmetic", 0.0, 0.0),
    "expert-emotions": Setting("task-arithmetic", 1.0, 0.0),
    "expert-words": Setting("task-arithmetic", 0.0, 1.0),
    "halves": Setting("task-arithmetic", 0.5, 0.5),
}
#: Coefficients of both vectors, and weights of the expert for emotions in an average.
_BOTH, _SHARES = (0.4, 0.6, 0.8, 1.0), (0.4, 0.5, 0.6, 0.7)
#: Of rules that keep less of a vector, or spread it over all directions.
_LARGER = (0.6, 0.9, 1.2, 1.5)


def _both(method: str, values: Sequence[float] = _BOTH, **options: Any) -> list[Setting]:
    return [Setting(method, value, value, options) for value in values]


def _shares(method: str, **options: Any) -> list[Setting]:
    return [Setting(method, share, round(1 - share, 6), options) for share in _SHARES]


#: Method -> its settings, four each.
GRID: Mapping[str, Sequence[Setting]] = {
    "linear": _shares("linear"),
    "task-arithmetic": _both("task-arithmetic"),
    "slerp": _shares("slerp"),
    "nuslerp": _shares("nuslerp"),
    "karcher": _shares("karcher"),
    "ties": [*_both("ties", (0.7, 1.0), density=0.2), *_both("ties", (0.7, 1.0), density=0.5)],
    "breadcrumbs": [
        *_both("breadcrumbs", (0.6, 1.0), density=0.5),
        *_both("breadcrumbs", (0.6, 1.0), density=0.85),
    ],
    "dare": [*_both("dare", (0.4, 0.6), density=0.5), *_both("dare", (0.4, 0.6), density=0.8)],
    "della": [*_both("della", (0.7, 1.0), density=0.5), *_both("della", (0.7, 1.0), density=0.7)],
    "model-stock": [
        *_both("model-stock", (1.0, 2.0)),
        *_both("model-stock", (1.0, 2.0), filter_wise=True),
    ],
    "tsv-m": _both("tsv-m", _LARGER),
    "iso-c": _both("iso-c", _LARGER),
    "wudi": _both("wudi", _LARGER),
    "fisher": _shares("fisher"),
    "regmean": _shares("regmean"),
}


def settings_of(methods: Sequence[str]) -> dict[str, Setting]:
    """Name of each setting -> setting: `REFERENCES`, then METHOD-1 to METHOD-4 for each method.

    Args:
        methods: names; empty: all.

    Raises:
        RecipeError: if there is no such method.
    """
    for name in methods:
        if name not in GRID:
            raise RecipeError(
                f"there is no merge method {name!r} to compare; allowed are {', '.join(GRID)}"
                f"{did_you_mean(name, GRID)}"
            )
    chosen = methods or list(GRID)
    assert set(GRID) == set(RULES), "each merge rule is tried"
    found = dict(REFERENCES)
    for method in dict.fromkeys(chosen):
        found |= {f"{method}-{number}": one for number, one in enumerate(GRID[method], start=1)}
    return found
