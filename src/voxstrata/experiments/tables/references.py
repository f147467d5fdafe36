"""References in the values of a table, and what stands in their place.

`$corpus.NAME`, `$run.NAME`, `$fold`, `$part` and `$seed` stand for a prepared corpus, another run's folder
and the axes' values; in a synthetic corpus `$lexical_strength` does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from voxstrata.errors import RecipeError

REFERENCE = re.compile(r"^\$(?:(corpus|run)\.([\w-]+)|(fold|part|seed))$")


def references(value: Any, kind: str) -> set[str]:
    """Names behind `$corpus.` or `$run.` anywhere in a value.

    >>> references({"a": ["$run.asr", {"b": "$corpus.x"}]}, "run")
    {'asr'}
    """
    if isinstance(value, Mapping):
        return set().union(*(references(v, kind) for v in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(references(v, kind) for v in value), set())
    match = REFERENCE.match(value) if isinstance(value, str) else None
    return {match[2]} if match and match[1] == kind else set()


def substitute(value: Any, known: Mapping[str, Any]) -> Any:
    """Puts values in the place of references, e.g. {"$fold": 2, "$run.asr": "runs/asr-1"}.

    Raises:
        RecipeError: for a reference that is not known.
    """
    if isinstance(value, Mapping):
        return {key: substitute(v, known) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(v, known) for v in value]
    if isinstance(value, str) and value.startswith("$"):
        if value not in known:
            raise RecipeError(f"{value} is not known here; there are {', '.join(sorted(known))}")
        return known[value]
    return value


def content_key(value: Any) -> str:
    """Ten hex digits of the hash of a JSON value.

    >>> content_key({"b": 1, "a": 2}) == content_key({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
