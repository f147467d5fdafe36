"""How a published checkpoint of a speech encoder names its tensors, and what else stands in it.

A layout is known by content: by the spelling of the first layer's query projection, by what stands before it,
and where two families spell it alike by another tensor beside it. All are brought to transformers' own names.
The layouts themselves stand in the file of their family, `backbone.families`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: Names of one kind that are listed in full.
_MOST_NAMES = 12

Rules = tuple[tuple[re.Pattern[str], str], ...]


def rules(*pairs: tuple[str, str]) -> Rules:
    """Pairs of a pattern and a text, compiled."""
    return tuple((re.compile(pattern), text) for pattern, text in pairs)


#: Older spelling of weight norm, of torch itself.
_WEIGHT_NORM = rules(
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)
#: What stands beside an encoder in several layouts.
_ANYWHERE = rules(
    (r"(^|\.)lm_head\.", "CTC head"),
    (r"(^|\.)layer_weights$", "weights of its layer sum"),
    (r"(^|\.)(projector|classifier)\.", "classification head"),
    (r"(^|\.)(quantizer|project_q|project_hid)\.", "pre-training head"),
    (r"^final_ser\.pt$", "emotion head"),
    (r"^final_pool\.pt$", "attentive pooling"),
    (r"\.original_module\.", "the base's own, which the adapter replaces"),
    (r"(?i)optimi[sz]er|scheduler|scaler", "state of its training"),
    (r"\.(ckpt|pt|bin|safetensors)$", "another file of the folder"),
)


@dataclass(frozen=True)
class Layout:
    """One way to name a speech encoder's tensors.

    Args:
        name: of the toolkit or publication it comes from.
        anchor: how the query projection of the first layer is called.
        beside: another tensor that has to stand behind the same prefix; "": none. Not of an adapter.
        prefix: pattern of all that stands before the anchor.
        entry: pattern of the entry of a torch file that holds the tensors.
        renames: applied in this order to a name without its prefix; the first that fits is used.
        heads: pattern of what is left out -> what it is; the first that fits is used.
    """

    name: str
    anchor: str
    beside: str = ""
    prefix: str = ".*"
    entry: str = ".*"
    renames: Rules = ()
    heads: Rules = ()

    def canonical(self, name: str) -> str:
        """Transformers' name of a tensor, given its name without the prefix."""
        for pattern, text in self.renames:
            name, changed = pattern.subn(text, name)
            if changed:
                break
        for pattern, text in _WEIGHT_NORM:
            name = pattern.sub(text, name)
        return name

    def renamed(self, name: str) -> bool:
        """Whether this layout spells a tensor otherwise than transformers, given its name without prefix."""
        return self.canonical(name) != name

    def reason(self, key: str) -> str:
        """What a stored tensor outside the backbone is."""
        rules = (*self.heads, *_ANYWHERE)
        return next((text for pattern, text in rules if pattern.search(key)), "outside the encoder")


def describe_left_out(left_out: Mapping[str, str]) -> str:
    """Names grouped by what they are.

    >>> describe_left_out({"lm_head.weight": "CTC head", "lm_head.bias": "CTC head"})
    'lm_head.weight, lm_head.bias (CTC head)'
    """
    groups: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{_listed(names)} ({reason})" for reason, names in groups.items()) or "nothing"


def _listed(names: list[str]) -> str:
    """Names, of many the first two: a decoder has hundreds."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2:,} more"
