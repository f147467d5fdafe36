"""Merge rules by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from voxstrata.config.problems import problems_in
from voxstrata.config.strict import Strict
from voxstrata.errors import RecipeError, did_you_mean
from voxstrata.merging.rules.arithmetic import TaskArithmetic
from voxstrata.merging.rules.averages import Linear
from voxstrata.merging.rules.measured import Fisher, RegMean
from voxstrata.merging.rules.model_stock import ModelStock
from voxstrata.merging.rules.random_drops import Dare, Della
from voxstrata.merging.rules.rule import Rule
from voxstrata.merging.rules.sparse import Breadcrumbs, Ties
from voxstrata.merging.rules.spectral import IsoC, TsvMerge
from voxstrata.merging.rules.spherical import Karcher, NuSlerp, Slerp
from voxstrata.merging.rules.wudi import Wudi

#: Name -> rule; the one list that the merge command and learned merges share.
RULES: dict[str, Rule[Any]] = {
    rule.name: rule
    for rule in (
        *(Linear(), TaskArithmetic(), Slerp(), NuSlerp(), Karcher()),
        *(Ties(), Breadcrumbs(), Dare(), Della(), ModelStock()),
        *(TsvMerge(), IsoC(), Wudi(), Fisher(), RegMean()),
    )
}


def rule_named(name: str) -> Rule[Any]:
    """A rule by its name.

    Raises:
        RecipeError: if there is none of that name, with the names that there are and the nearest one.
    """
    if name not in RULES:
        meant = did_you_mean(name.replace("_", "-"), RULES)
        raise RecipeError(f"there is no merge method {name!r}; allowed are {', '.join(RULES)}{meant}")
    return RULES[name]


def option_names(rule: Rule[Any]) -> list[str]:
    """The options of a rule, as users write them."""
    return [field.alias or name for name, field in rule.options.model_fields.items()]


def options_of(rule: Rule[Any], given: Mapping[str, Any]) -> Strict:
    """Options of a rule, checked.

    Args:
        rule: from `RULES`.
        given: names and values, as users write them.

    Raises:
        RecipeError: if one is unknown or has a value that is not allowed, in one line.
    """
    try:
        return rule.options.model_validate(dict(given))
    except ValidationError as fault:
        sentences = "; ".join(problems_in(fault))
        allowed = ", ".join(option_names(rule)) or "none"
        raise RecipeError(f"method {rule.name}: {sentences} (options: {allowed})") from None
