"""The tensors of a merge: each is read, merged in float64, cast once, and written before the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from voxstrata.backbone.finite import require_finite
from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.kinship import KINSHIP_THRESHOLD, Kinship
from voxstrata.errors import CheckpointError
from voxstrata.merging.parents import Parent
from voxstrata.merging.plan import MergePlan
from voxstrata.merging.rules.rule import TensorToMerge, Widened
from voxstrata.merging.template import INDEX, Slot
from voxstrata.merging.writing import Planned, write_safetensors

#: Entries that are merged at a time where a rule looks at each by itself.
_BLOCK = 2**20

#: Rows and columns of a matrix that tells whose child an expert is.
_LEAST_WIDTH = 32

#: Called with bytes written, bytes in all, and the tensor that is next.
Progress = Callable[[int, int, str], None]


@dataclass
class Work:
    """The tensors of one merge, and what was found in them."""

    plan: MergePlan
    progress: Progress | None
    done: int = 0
    rounded: dict[str, set[str]] = field(default_factory=dict)
    #: Vectors with a coefficient in some layer -> whether they change anything there.
    changes: dict[str, bool] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of all values."""
        slots = self.plan.template.slots
        return sum(torch.Size(slot.shape).numel() * self.plan.dtype(slot).itemsize for slot in slots)

    def write(self, folder: Path) -> None:
        """Writes the weights, in as many files as the base has, and their index."""
        files: dict[str, list[Planned]] = {}
        for slot in self.plan.template.slots:
            planned = Planned(slot.key, slot.shape, self.plan.dtype(slot), self._making(slot))
            files.setdefault(slot.file, []).append(planned)
        for name in sorted(files):
            write_safetensors(folder / name, files[name])
        if len(files) > 1:
            places = {one.key: name for name, planned in sorted(files.items()) for one in planned}
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": dict(sorted(places.items()))}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if self.changes and not any(self.changes.values()):
            raise CheckpointError(
                f"there is nothing to merge, as {', '.join(self.changes)} changed no tensor that is merged; "
                "give checkpoints that were fine-tuned, not a head over a frozen encoder"
            )

    def notes(self) -> list[str]:
        """What is to be said of the vectors."""
        unchanged = [name for name, changes in self.changes.items() if not changes]
        return [
            *(
                f"warning: vector {name} is zero in all that is merged: it changes nothing"
                for name in unchanged
            ),
            *(
                f"{name} is stored in {' and '.join(sorted(kinds))}: what differs from the base by "
                "that rounding "
                "alone counts as unchanged"
                for name, kinds in self.rounded.items()
                if kinds
            ),
            *self.tables.values(),
        ]

    def _making(self, slot: Slot) -> Callable[[], Tensor]:
        return lambda: self._made(slot)

    def _made(self, slot: Slot) -> Tensor:
        """A tensor as it is written."""
        dtype = self.plan.dtype(slot)
        if self.progress is not None:
            self.progress(self.done, self.nbytes, slot.key)
        coefficients = self.plan.of(slot)
        merged = (
            self._copied(slot, dtype) if coefficients is None else self._merged(slot, coefficients, dtype)
        )
        if dtype == torch.float16 and not bool(torch.isfinite(merged).all()):
            raise CheckpointError(
                f"{slot.key} has values that float16 cannot hold; write the merge in bfloat16 or "
                "float32 (--dtype)"
            )
        self.done += merged.nbytes
        return merged

    def _base(self, slot: Slot) -> Tensor:
        base = slot.read()
        require_finite([(slot.key, base)], self.plan.base.checkpoint.path)
        return base

    def _copied(self, slot: Slot, dtype: torch.dtype) -> Tensor:
        base = self._base(slot)
        self._compare_table(slot, base)
        return base.to(dtype)

    def _merged(self, slot: Slot, coefficients: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        name = slot.name
        assert name is not None
        base = self._base(slot)
        base = base.to(torch.promote_types(base.dtype, torch.float32))
        experts = [
            # One without a coefficient takes no part: it is not read.
            self._expert(expert, name, base) if coefficient else base
            for expert, coefficient in zip(self.plan.experts.values(), coefficients, strict=True)
        ]
        if not any(coefficients):
            return base.to(dtype)
        measured = self.plan.measured(name)
        rule, options, seed = self.plan.rule, self.plan.options, seed_of(self.plan.request.seed, name)
        if not rule.elementwise or base.numel() <= _BLOCK:
            tensor = TensorToMerge(name, base.double(), Widened(experts), coefficients, seed, measured)
            del base
            return rule.merge(tensor, options).to(dtype)
        merged = torch.empty(base.shape, dtype=dtype)
        flat, parts = merged.view(-1), [one.reshape(-1) for one in (base, *experts)]
        flat_measured = [None if one is None else one.reshape(-1) for one in measured]
        for start in range(0, flat.numel(), _BLOCK):
            ours, *theirs = (part[start : start + _BLOCK].double() for part in parts)
            found = tuple(None if one is None else one[start : start + _BLOCK] for one in flat_measured)
            tensor = TensorToMerge(name, ours, tuple(theirs), coefficients, seed, found)
            flat[start : start + _BLOCK] = rule.merge(tensor, options)
        return merged

    def _expert(self, expert: Parent, name: str, base: Tensor) -> Tensor:
        """A tensor of an expert; whether it differs from the base is kept in mind."""
        tied = expert.checkpoint.family.tied
        if name in tied and name not in expert.checkpoint.all_shapes():
            name = tied[name]
        tuned = expert.checkpoint.fine_tuned(name, base, self.rounded.setdefault(expert.name, set()))
        if not self.changes.get(expert.name):
            self.changes[expert.name] = not torch.equal(tuned.to(base.dtype), base)
        return tuned

    def _compare_table(self, slot: Slot, base: Tensor) -> None:
        """Notes experts whose fixed tensors are others than the base's, which are used."""
        for name, expert in self.plan.experts.items():
            checkpoint = expert.checkpoint
            if slot.name not in checkpoint.family.fixed or slot.name not in checkpoint.stored:
                continue
            if not checkpoint.agrees(slot.name, base):
                self.tables[name] = f"warning: {name} has another {slot.name}; the base's own is used"


def seed_of(seed: int, name: str) -> int:
    """The seed of one tensor, whatever the order of tensors."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


def require_kinship(plan: MergePlan) -> None:
    """Refuses an expert whose matrices have nothing in common with the base's: a sum with it is noise."""
    # One of each layer is enough, and a small one; tables of positions and gates are no such matrices.
    matrices: dict[int, Slot] = {}
    for slot in plan.template.slots:
        layer = layer_index(slot.name or "")
        if not layer or len(slot.shape) != 2 or min(slot.shape) < _LEAST_WIDTH:
            continue
        if layer not in matrices or prod(slot.shape) < prod(matrices[layer].shape):
            matrices[layer] = slot
    for name, expert in plan.experts.items():
        kinship = Kinship()
        for slot in matrices.values():
            if slot.name in expert.checkpoint.stored:
                base = slot.read().float()
                kinship.add(slot.name or "", base, expert.checkpoint.fine_tuned(slot.name or "", base))
        if not kinship.related:
            raise CheckpointError(
                f"{name} ({expert.given}) does not come from this base: its matrices correlate with "
                "the base's "
                f"by {kinship.value:.3f}, at least {KINSHIP_THRESHOLD} is expected; give the base it was "
                "fine-tuned from, or allow a foreign expert (--allow-foreign)"
            )
