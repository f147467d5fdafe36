"""What lies beside a merge: the model card, and the file that the same merge is made from again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from voxstrata import __version__
from voxstrata.backbone.export_folder import CARD_MARK
from voxstrata.backbone.layouts import describe_left_out
from voxstrata.labels import is_one_line
from voxstrata.merging.licences import conflicts
from voxstrata.merging.plan import MergePlan

#: Digits of a hash that a table shows; all of them stand in merge.yaml.
_DIGITS = 16


def merge_yaml(plan: MergePlan, merge: Mapping[str, Any]) -> str:
    """The text of merge.yaml: `voxstrata merge merge.yaml --out NEW` makes the same merge again.

    Args:
        plan: of the merge.
        merge: what was written, see `FileMerge.as_dict`.
    """
    request, parents = plan.request, merge["parents"]
    content = {
        "method": plan.rule.name,
        "options": dict(request.options),
        "seed": request.seed,
        "parts": plan.groups.part,
        "dtype": request.dtype,
        "allow_foreign": request.allow_foreign,
        "base": {"path": request.base, "sha256": parents["base"]["sha256"]},
        "vectors": {
            name: {
                "path": expert.path,
                "sha256": parents[name]["sha256"],
                "coefficients": merge["coefficients"][name],
            }
            for name, expert in request.experts.items()
        },
    }
    about = [
        f"# Written by voxstrata {__version__}. The same merge again: voxstrata merge merge.yaml --out NEW",
        f"# Coefficients are those of {plan.groups.described()}.",
    ]
    text: str = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return "\n".join(about) + "\n" + text


def card(plan: MergePlan, merge: Mapping[str, Any]) -> str:
    """The text of the merge's README.md, with front matter as the hub reads it.

    Args:
        plan: of the merge.
        merge: what was written, see `FileMerge.as_dict`.
    """
    parents: Mapping[str, Mapping[str, Any]] = merge["parents"]
    licences = {name: facts["licence"] for name, facts in parents.items()}
    known = set(licences.values())
    front: dict[str, Any] = {
        "base_model": _base_models(parents),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "speech", "voxstrata"],
    }
    if len(known) == 1 and None not in known:
        front["license"] = known.pop()
    name = _line(merge["out"].rstrip("/").rpartition("/")[2]) or "merge"
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        *("---", CARD_MARK, "", f"# {name}", ""),
        f"A {_line(plan.template.config.get('model_type', 'speech'))} model, merged from the "
        "checkpoints below by "
        "`voxstrata merge` without training. No score of it is known here: measure it before it is used.",
        *("", "## Parents", "", "| | model | licence | SHA-256 of its weight files |", "|---|---|---|---|"),
        *(_parent(name, facts) for name, facts in parents.items()),
        *("", "## Method", "", f"`{merge['method']}`: {plan.rule.paper}."),
        f"Merged: {merge['parts']}, {plan.groups.described()}; weights in {merge['dtype']}.",
        *([f"Options: {_options(merge['options'])}."] if merge["options"] else []),
        *("", *coefficient_table(merge)),
        *("", "## What is not merged", "", *_not_merged(merge)),
        *("", "## Loading", "", *_loading(plan)),
        *("", "## Licence", "", *_licence(licences), ""),
    ]
    return "\n".join(lines)


def coefficient_table(merge: Mapping[str, Any]) -> list[str]:
    """A line of Markdown for each group."""
    names = list(merge["coefficients"])
    rows = zip(merge["layers"], *merge["coefficients"].values(), strict=True)
    return [
        f"| layer | {' | '.join(map(_line, names))} |",
        f"|---|{'---|' * len(names)}",
        *(f"| {label} | {' | '.join(f'{value:g}' for value in values)} |" for label, *values in rows),
    ]


def _parent(name: str, facts: Mapping[str, Any]) -> str:
    hashes = "; ".join(f"`{digest[:_DIGITS]}...`" for digest in facts["sha256"].values())
    title = facts["title"]
    if facts["published"] not in (None, title):
        title += f" (from {facts['published']})"
    return f"| {_line(name)} | {_line(title)} | {_line(facts['licence'] or 'not stated')} | {hashes} |"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{_line(name)} {_line(value)}" for name, value in options.items())


def _not_merged(merge: Mapping[str, Any]) -> list[str]:
    copied: Mapping[str, str] = merge["copied"]
    found = [f"- The base's own, as they are: {_line(describe_left_out(copied))}."] if copied else []
    for name, tensors in merge["left_out"].items():
        found.append(f"- Left out of {_line(name)}: {_line(describe_left_out(tensors))}.")
    return found or ["Nothing: every tensor of the base and of the experts is merged."]


def _base_models(parents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the parents for the hub: of a run that of its base, for its folder's name is known here alone.

    >>> _base_models({"base": {"title": "copy", "published": None}, "a": {"title": "a", "published": "me/x"}})
    ['me/x']
    """
    published = [facts["published"] for facts in parents.values()]
    # A base without a name for others is the one that its experts name.
    first = published[0] or next(filter(None, published[1:]), None)
    names = [first, *published[1:]]
    titles = [facts["title"] for facts in parents.values()]
    return list(dict.fromkeys(name or title for name, title in zip(names, titles, strict=True)))


def _loading(plan: MergePlan) -> list[str]:
    kind, behind, said = "AutoModel", "", []
    if plan.base.has_decoder:
        kind = "AutoModelForSpeechSeq2Seq"
    elif plan.base.checkpoint.family.decoder_parts:
        behind = ".get_encoder()"
        said = ["", "The folder holds an encoder alone: transformers puts a random decoder beside it."]
    return [
        "```python",
        f"from transformers import {kind}",
        "",
        f'model = {kind}.from_pretrained("PATH/TO/THIS/FOLDER"){behind}',
        "```",
        *said,
        "",
        'In voxstrata: `vs.load_backbone("PATH/TO/THIS/FOLDER")`. The merge again, or with other '
        "coefficients: `merge.yaml`.",
    ]


def _licence(licences: Mapping[str, str | None]) -> list[str]:
    found = [f"**Warning:** {_line(line)}." for line in conflicts(licences)]
    missing = [name for name, licence in licences.items() if licence is None]
    if missing:
        found.append(
            f"The licence of {', '.join(map(_line, missing))} is not stated where it lies: see its own "
            "card before "
            "this model is passed on."
        )
    if len(set(licences.values())) > 1:
        found.append(
            "The parents' licences differ; what that means for a merge is for who passes it on to settle."
        )
    return found or ["All parents are under the licence named above, and so is the merge."]


def _line(text: object) -> str:
    shown = str(text).replace("|", "\\|")
    return shown if is_one_line(shown) else ascii(shown)[1:-1]
