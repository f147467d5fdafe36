"""Merge rules by name."""

from __future__ import annotations

from typing import Any

from voxstrata.errors import CheckpointError
from voxstrata.merging.rules.arithmetic import TaskArithmetic
from voxstrata.merging.rules.rule import Rule

#: Name -> rule; the one list that the merge command and learned merges share.
RULES: dict[str, Rule[Any]] = {rule.name: rule for rule in (TaskArithmetic(),)}


def rule_named(name: str) -> Rule[Any]:
    """A rule by its name.

    Raises:
        CheckpointError: if there is none of that name, with the names that there are.
    """
    if name not in RULES:
        raise CheckpointError(f"there is no merge method {name!r}; allowed are {', '.join(RULES)}")
    return RULES[name]
