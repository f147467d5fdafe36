"""What a merge will do, found from headers alone: no weight is read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from voxstrata.backbone.input_settings import InputSettings, require_same_input, stored_input_settings
from voxstrata.backbone.layouts import describe_left_out
from voxstrata.config.strict import Strict
from voxstrata.errors import CheckpointError, RecipeError, VoxstrataError, counted
from voxstrata.merging.coefficients import expanded
from voxstrata.merging.licences import conflicts
from voxstrata.merging.parents import Parent, same_file
from voxstrata.merging.parts import MergeGroups, chosen_part
from voxstrata.merging.request import MergeRequest, checked
from voxstrata.merging.rules.rule import Rule, TensorToMerge
from voxstrata.merging.run_base import bases_of, is_same_base
from voxstrata.merging.statistics import KINDS, Statistics
from voxstrata.merging.template import Slot, Template, template_of

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found in the headers.

    Args:
        about: "merge", "base", or the name of a vector.
        topic: what was looked at, e.g. "shapes".
        level: whether it stands in the way ("error").
        text: one line.
    """

    about: str
    topic: str
    level: Level
    text: str


@dataclass(frozen=True)
class MergePlan:
    """A merge that can be made.

    Args:
        request: that it follows from.
        rule: of the merge.
        options: of the rule.
        base: what the experts were fine-tuned from.
        experts: name of each vector -> its checkpoint; without decoder, where that is not merged.
        template: the folder to be written.
        groups: of tensors with a coefficient each.
        coefficients: name of each vector -> one per group.
        statistics: name of each vector -> what was measured of its expert; empty where the rule needs none.
    """

    request: MergeRequest
    rule: Rule[Any]
    options: Strict
    base: Parent
    experts: Mapping[str, Parent]
    template: Template
    groups: MergeGroups
    coefficients: Mapping[str, tuple[float, ...]]
    statistics: Mapping[str, Statistics] = field(default_factory=dict)

    def measured(self, name: str) -> tuple[Tensor | None, ...]:
        """What was measured of one tensor for each expert; None where there is nothing."""
        return tuple(self.statistics[expert].read(name) for expert in self.experts if self.statistics)

    def of(self, slot: Slot) -> tuple[float, ...] | None:
        """The coefficients of a tensor, one per expert; None for one that comes from the base."""
        fixed = self.base.checkpoint.family.fixed
        if slot.name is None or slot.name in fixed or not slot.dtype.is_floating_point:
            return None
        group = self.groups.index(slot.name)
        return None if group is None else tuple(values[group] for values in self.coefficients.values())

    def dtype(self, slot: Slot) -> torch.dtype:
        """In which a tensor is written: as asked, else the widest that the base and the experts have."""
        if not slot.dtype.is_floating_point:
            return slot.dtype
        if self.request.dtype is not None:
            asked: torch.dtype = getattr(torch, self.request.dtype)
            return asked
        dtype = slot.dtype
        if self.of(slot) is not None:
            for expert in self.experts.values():
                for kind in expert.stored_formats(slot.name or ""):
                    dtype = torch.promote_types(dtype, getattr(torch, kind))
        return dtype

    def main_dtype(self) -> torch.dtype:
        """The widest in which a floating-point tensor is written."""
        found = [self.dtype(slot) for slot in self.template.slots if slot.dtype.is_floating_point]
        widest = found[0]
        for dtype in found[1:]:
            widest = torch.promote_types(widest, dtype)
        return widest

    def parents(self) -> dict[str, Parent]:
        """The base and the experts by name."""
        return {"base": self.base, **self.experts}

    def left_out(self) -> dict[str, dict[str, str]]:
        """Whose tensors are not in the merge: name of the parent -> stored name -> what it is."""
        found = {"base": {**self.template.left_out, **self.base.head_beside}}
        found |= {name: expert.left_out for name, expert in self.experts.items()}
        return {name: tensors for name, tensors in found.items() if tensors}

    def copied(self) -> dict[str, str]:
        """The tensors of the merge that are the base's own: name in the folder -> why they are not merged."""
        return {slot.key: self._why_copied(slot) for slot in self.template.slots if self.of(slot) is None}

    def _why_copied(self, slot: Slot) -> str:
        if slot.name is None:
            return "outside the encoder and decoder"
        if slot.name in self.base.checkpoint.family.fixed:
            return "a fixed table, which no training changes"
        if not slot.dtype.is_floating_point:
            return "whole numbers"
        return f"the {'encoder' if self.groups.part == 'decoder' else 'decoder'}, which is not merged"


@dataclass
class Examination:
    """All that headers tell of a merge.

    Args:
        findings: in the order in which they were made.
        plan: None where something stands in the way.
    """

    findings: list[Finding] = field(default_factory=list)
    plan: MergePlan | None = None

    @property
    def errors(self) -> list[Finding]:
        """What stands in the way."""
        return [finding for finding in self.findings if finding.level == "error"]

    def require_plan(self) -> MergePlan:
        """The plan.

        Raises:
            VoxstrataError: with the first fault, and how many more there are.
        """
        if self.plan is not None:
            return self.plan
        first, *more = self.errors
        also = f" ({counted(len(more), 'more fault')}: see --check)" if more else ""
        raise CheckpointError(f"{first.text}{also}")

    def say(self, about: str, topic: str, text: str, level: Level = "ok") -> None:
        """Adds a finding."""
        self.findings.append(Finding(about, topic, level, text))

    @contextmanager
    def looking(self, about: str, topic: str) -> Iterator[None]:
        """Makes a finding of a fault within, and goes on."""
        try:
            yield
        except VoxstrataError as fault:
            self.say(about, topic, str(fault), "error")


def examine(request: MergeRequest, *, download: bool = True) -> Examination:
    """Looks at the headers of all that is to be merged.

    Args:
        request: what is asked for.
        download: whether checkpoints that are not here yet may be fetched.
    """
    found = Examination()
    with found.looking("merge", "method"):
        request = checked(request)
    options: Strict | None = None
    with found.looking("merge", "method"):
        options = request.checked_options()
        found.say("merge", "method", f"{request.method} ({request.rule().paper})")
    base: Parent | None = None
    template: Template | None = None
    with found.looking("base", "layout"):
        base = Parent.open("base", request.base, download=download)
        template = template_of(base)
        found.say("base", "layout", _described(base))
    if base is None or template is None or not request.experts:
        return found
    experts: dict[str, Parent] = {}
    for name, expert in request.experts.items():
        with found.looking(name, "layout"):
            experts[name] = Parent.open(name, expert.path, base.checkpoint.family, download=download)
            found.say(name, "layout", _described(experts[name]))
    with found.looking("merge", "files"):
        _require_distinct(base, experts, base_may_be_expert=options is None or _averages(request))
    with found.looking("merge", "parts"):
        decoders = [one.has_decoder or one.checkpoint.partial for one in experts.values()]
        part = chosen_part(request.parts, base.has_decoder, decoders)
        if part == "encoder":
            experts = {name: expert.encoder_alone() for name, expert in experts.items()}
        names = [slot.name for slot in template.slots if slot.name is not None]
        groups = MergeGroups.of(base.checkpoint.family, names, part)
        found.say("merge", "parts", f"{part}: {groups.described()}")
        for opened in experts.values():
            _look_at(found, opened, base, request, decoder=part != "encoder")
        statistics = _statistics(found, request) if options is not None else {}
        coefficients = _coefficients(found, request, groups, options)
        _look_at_all(found, base, experts, template)
        if not found.errors and options is not None:
            found.plan = MergePlan(
                request, request.rule(), options, base, experts, template, groups, coefficients, statistics
            )
            _look_at_output(found, found.plan)
    return found


def _averages(request: MergeRequest) -> bool:
    """Whether the base may be one of what is averaged."""
    return request.rule().weights_sum_to_one


def _described(parent: Parent) -> str:
    checkpoint = parent.checkpoint
    kind = parent.config.get("model_type", checkpoint.family.title)
    lora = f", {checkpoint.lora.describe()}" if checkpoint.lora else ""
    decoder = " and a decoder" if parent.has_decoder else ""
    return (
        f"{parent.given}: {kind}, {checkpoint.num_layers} layers{decoder}, {checkpoint.container.kind}, "
        f"layout {checkpoint.layout}{lora}"
    )


def _require_distinct(base: Parent, experts: Mapping[str, Parent], *, base_may_be_expert: bool) -> None:
    parents = list(experts.values()) if base_may_be_expert else [base, *experts.values()]
    for index, one in enumerate(parents):
        for other in parents[index + 1 :]:
            if same_file(one, other):
                whose = (
                    f"vector {other.name} is the base itself"
                    if one is base
                    else (f"vectors {one.name} and {other.name} are the same file")
                )
                raise CheckpointError(f"{whose}, {other.checkpoint.path}; give each checkpoint once")


def _look_at(
    found: Examination, expert: Parent, base: Parent, request: MergeRequest, *, decoder: bool
) -> None:
    """An expert beside the base: shapes, kinship, input, heads."""
    is_run = _look_at_run(found, expert, base, foreign=request.allow_foreign)
    with found.looking(expert.name, "shapes"):
        expert.require_fit(base, decoder=decoder)
        count = counted(len(expert.checkpoint.all_shapes()), "tensor")
        found.say(expert.name, "shapes", f"{count} of the base's shapes")
    if not is_run:
        _look_at_kinship(found, expert, base)
    try:
        theirs, ours = _input_of(expert), _input_of(base)
        for note in require_same_input(expert.given, theirs, ours):
            found.say(expert.name, "input", note, "warning")
        found.say(expert.name, "input", "prepared as the base's, as far as the files say")
    except VoxstrataError as fault:
        found.say(expert.name, "input", str(fault), "warning" if request.allow_foreign else "error")
    if left_out := expert.left_out:
        found.say(expert.name, "left out", describe_left_out(left_out), "note")
    if labels := expert.labels():
        found.say(expert.name, "labels", f"of its head, left out: {_some(labels)}", "note")


def _look_at_run(found: Examination, expert: Parent, base: Parent, *, foreign: bool) -> bool:
    """Holds the base against the one that an expert's run started from; False where the run names none."""
    bases = []
    with found.looking(expert.name, "kinship"):
        bases = list(bases_of(expert.given))
    if not bases:
        return False
    source = bases[0].source
    answers = [is_same_base(one, base.given, base.place, base.fingerprint) for one in bases]
    if True in answers:
        found.say(expert.name, "kinship", f"a run that started from {bases[answers.index(True)].source}")
    elif False in answers:
        text = f"vector {expert.name} is a run that started from {source}, not from {base.given}; give --base"
        text += f" {source}, or take it as foreign (--allow-foreign)"
        found.say(expert.name, "kinship", text, "warning" if foreign else "error")
    else:
        text = f"a run that started from {source}, which is not here; weights are compared when merged"
        found.say(expert.name, "kinship", text, "note")
    return True


def _look_at_kinship(found: Examination, expert: Parent, base: Parent) -> None:
    kinds = [parent.config.get("model_type") for parent in (expert, base)]
    if None not in kinds and kinds[0] != kinds[1]:
        text = f"{expert.name} is of model type {kinds[0]}, the base of {kinds[1]}; weights are compared"
        found.say(expert.name, "kinship", text, "warning")
    if expert.declared is None:
        found.say(expert.name, "kinship", "names no base; weights are compared when merged", "note")
        return
    names = {Path(name).name for name in (base.given, base.title, base.declared or base.given)}
    if Path(expert.declared).name in names:
        found.say(expert.name, "kinship", f"names {expert.declared} as its base")
    else:
        text = f"names {expert.declared} as its base, and is merged into {base.given}; weights are compared"
        found.say(expert.name, "kinship", text, "note")


def _input_of(parent: Parent) -> InputSettings:
    settings = stored_input_settings(parent.place, parent.checkpoint.settings)
    kind = parent.config.get("model_type")
    return InputSettings(settings.normalize, settings.window, {"model_type": kind, **settings.settings})


def _statistics(found: Examination, request: MergeRequest) -> dict[str, Statistics]:
    """What was measured of the experts, where the rule needs it; its weights are checked when merging."""
    rule, opened = request.rule(), dict[str, Statistics]()
    with found.looking("merge", "statistics"):
        if rule.statistics is None and request.statistics:
            raise RecipeError(f"statistics are given, and {rule.name} needs none; leave them out")
        missing = [name for name in request.experts if name not in request.statistics]
        if rule.statistics is not None and missing:
            raise RecipeError(
                f"{rule.name} needs what was measured of each expert ({KINDS[rule.statistics]}), and "
                f"{', '.join(missing)} has none; write it with voxstrata merge-statistics --kind "
                f"{rule.statistics}, and give --statistics {missing[0]}=FILE"
            )
    if rule.statistics is None:
        return {}
    for name, path in request.statistics.items():
        with found.looking(name, "statistics"):
            opened[name] = Statistics.open(path)
            opened[name].require_kind(rule.statistics)
            found.say(name, "statistics", f"{path}, measured on {counted(opened[name].clips, 'clip')}")
    return opened


def _coefficients(
    found: Examination, request: MergeRequest, groups: MergeGroups, options: Strict | None
) -> dict[str, tuple[float, ...]]:
    """Each vector's coefficients; the rule refuses what it cannot merge."""
    coefficients: dict[str, tuple[float, ...]] = {}
    for name, expert in request.experts.items():
        with found.looking(name, "coefficients"):
            coefficients[name] = expanded(expert.coefficients, name, groups)
    if options is None or len(coefficients) < len(request.experts):
        return coefficients
    with found.looking("merge", "coefficients"):
        base, expert_values = torch.zeros(2, 2).double(), torch.ones(2, 2).double()
        for row in sorted(set(zip(*coefficients.values(), strict=True))):
            # Tried on a small matrix: what does not depend on weights is refused before any are read.
            tried = TensorToMerge(
                "merge", base, (expert_values,) * len(row), row, statistics=(None,) * len(row)
            )
            request.rule().merge(tried, options)
        if not any(any(values) for values in coefficients.values()):
            found.say("merge", "coefficients", "every coefficient is 0: the merge is the base", "warning")
        for name, values in coefficients.items():
            found.say(name, "coefficients", _some([f"{value:g}" for value in values], 40))
    return coefficients


def _look_at_all(found: Examination, base: Parent, experts: Mapping[str, Parent], template: Template) -> None:
    """What concerns all together: number formats, label sets, licences, what comes from the base."""
    formats = {parent.name: "/".join(parent.formats()) for parent in (base, *experts.values())}
    listed = ", ".join(f"{name} {kinds}" for name, kinds in formats.items() if kinds)
    found.say("merge", "dtype", listed, "ok" if len(set(formats.values())) == 1 else "note")
    labels = {name: expert.labels() for name, expert in experts.items() if expert.labels()}
    if len(set(labels.values())) > 1:
        found.say(
            "merge", "labels", f"the heads of {', '.join(labels)} have other labels; none is merged", "note"
        )
    parents = {"base": base, **experts}
    licences = {name: parent.licence for name, parent in parents.items()}
    for line in conflicts(licences):
        found.say("merge", "licence", line, "warning")
    shown = ", ".join(f"{name} {licence or 'not stated'}" for name, licence in licences.items())
    found.say("merge", "licence", shown, "note" if None in licences.values() else "ok")
    if left_out := {**template.left_out, **base.head_beside}:
        found.say("base", "left out", describe_left_out(left_out), "note")


def _look_at_output(found: Examination, plan: MergePlan) -> None:
    merged = sum(plan.of(slot) is not None for slot in plan.template.slots)
    total = sum(torch.Size(slot.shape).numel() * plan.dtype(slot).itemsize for slot in plan.template.slots)
    kind = str(plan.main_dtype()).removeprefix("torch.")
    if copied := plan.copied():
        found.say("base", "copied", describe_left_out(copied), "note")
    text = f"{counted(merged, 'tensor')} merged, {len(copied)} copied from the base"
    found.say("merge", "output", f"{text}; {total / 1e6:,.1f} MB, {kind}")


def _some(names: list[str] | tuple[str, ...], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
