"""Task vectors: what fine-tuning changed in a backbone (AdaLTM, equations 2 and 3)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from voxstrata.backbone.checkpoints import Checkpoint, open_checkpoint
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.groups import group_norms, partition
from voxstrata.backbone.layouts import describe_left_out
from voxstrata.backbone.locate import locate
from voxstrata.errors import CheckpointError
from voxstrata.merging.kinship import KINSHIP_THRESHOLD, Kinship

FORMAT = "voxstrata-task-vector-1"


def is_task_vector(path: str | Path) -> bool:
    """Whether a file is a saved task vector (told from its header)."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def source_of_vector(path: str | Path) -> str:
    """Where the expert of a saved task vector lay (told from its header)."""
    with safe_open(path, framework="pt") as file:
        return str(file.metadata()["source"])


@dataclass(frozen=True)
class TaskVector:
    """Element-wise difference of an expert's backbone from its base.

    Weight-normalised tensors differ in their stored parts (magnitude and direction).

    Args:
        deltas: name -> difference, for every floating-point tensor of the base.
        base_fingerprint: of the base, see `backbone.fingerprint`.
        source: where the expert lay.
        left_out: the expert's tensors outside the backbone, by their stored names -> what they are.
        kinship: median correlation of the expert's transformer matrices with the base's.
        note: what was assumed in reading the expert, e.g. the scale of its LoRA factors.

    Raises:
        CheckpointError: if a difference is not finite.
    """

    deltas: Mapping[str, Tensor]
    base_fingerprint: str
    source: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    kinship: float = 1.0
    note: str = ""

    def __post_init__(self) -> None:
        bad = [name for name, delta in self.deltas.items() if not bool(delta.isfinite().all())]
        if bad:
            raise CheckpointError(
                f"{self.source}: {len(bad)} tensors differ from the base by infinity or NaN, e.g. {bad[0]}; "
                "the checkpoint is broken, or the vector does not fit its number format"
            )

    @classmethod
    def between(cls, base: SpeechEncoder, expert: str | Path, *, allow_foreign: bool = False) -> TaskVector:
        """The difference of an expert from a base.

        Args:
            base: what the expert was fine-tuned from.
            expert: checkpoint file or folder, packaged name or hub id; heads are left out.
            allow_foreign: take an expert that does not look fine-tuned from this base.

        Raises:
            CheckpointError: if the expert's tensors do not fit the base's, or it comes from another base
                (the median correlation of its transformer matrices with the base's is below 0.2).
        """
        checkpoint = open_checkpoint(locate(expert), base.family)
        weights = base.weights()
        checkpoint.check(weights)
        kinship = Kinship()
        deltas = {}
        for name, weight in weights.items():
            weight = weight.float().cpu()
            deltas[name] = checkpoint.difference(name, weight)
            if name in checkpoint.stored:
                kinship.add(name, weight, weight + deltas[name])
        left_out = {**checkpoint.left_out, **_changed_all_the_same(checkpoint, weights)}
        note = checkpoint.lora.describe() if checkpoint.lora else ""
        vector = cls(deltas, fingerprint(weights), str(expert), left_out, kinship.value, note)
        if not kinship.related and not allow_foreign:
            raise CheckpointError(
                f"{expert} does not come from this base ({base.model.config.model_type}, "
                f"{base.num_layers} layers of {base.hidden_size}): its matrices correlate with the base's by "
                f"{kinship.value:.3f}, at least {KINSHIP_THRESHOLD} is expected; give the base it was "
                "fine-tuned from, or allow a foreign expert (allow_foreign)"
            )
        return vector

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names of the tensors in each of the 1 + L groups."""
        return partition(self.deltas)

    def norms(self) -> tuple[float, ...]:
        """Euclidean norm of the difference in each of the 1 + L groups."""
        return group_norms(self.deltas)

    def zero_groups(self) -> tuple[int, ...]:
        """Groups that fine-tuning did not touch."""
        return tuple(
            index
            for index, names in enumerate(self.groups)
            if not any(bool(self.deltas[name].any()) for name in names)
        )

    def coverage(self) -> str:
        """What the vector covers, e.g. "488 tensors, each in exactly one of 25 groups; left out: ..."."""
        parts = [f"{len(self.deltas)} tensors, each in exactly one of {len(self.groups)} groups"]
        if zero := self.zero_groups():
            parts.append(f"zero in group{'s' * (len(zero) > 1)} {', '.join(map(str, zero))}")
        if self.note:
            parts.append(self.note)
        return "; ".join([*parts, f"left out: {describe_left_out(self.left_out)}"])

    def check(self, base: SpeechEncoder) -> None:
        """Refuses another base than the one the vector was taken from.

        Raises:
            CheckpointError: if the base's fingerprint is another.
        """
        self.check_fingerprint(fingerprint(base.weights()))

    def check_fingerprint(self, found: str) -> None:
        """`check` for a fingerprint that is already known."""
        if found != self.base_fingerprint:
            raise CheckpointError(
                f"the task vector of {self.source} belongs to the base {self.base_fingerprint[:12]}, but "
                f"this base is {found[:12]}; load that base, or take the vector anew with TaskVector.between"
            )

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Writes the vector as safetensors.

        Args:
            path: of the file.
            dtype: float32, bfloat16 or float16.

        Raises:
            CheckpointError: if a value is too large for the dtype, or the file cannot be written.
        """
        path = Path(path)
        deltas = {name: delta.detach().cpu().to(dtype).contiguous() for name, delta in self.deltas.items()}
        TaskVector(deltas, self.base_fingerprint, self.source)  # refuses what overflowed
        metadata = {
            "format": FORMAT,
            "base_sha256": self.base_fingerprint,
            "source": self.source,
            "left_out": json.dumps(dict(self.left_out)),
            "kinship": repr(self.kinship),
            "note": self.note,
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(deltas, partial, metadata=metadata)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(
                f"cannot write {path}: {fault}; free space or choose another folder"
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> TaskVector:
        """Reads a vector that `save` wrote; the differences keep their stored dtype.

        Raises:
            CheckpointError: if the file is none.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise CheckpointError(
                        f"{path} is no task vector; take one with TaskVector.between(base, expert)"
                    )
                deltas = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"cannot read {path} as a task vector: {fault}") from None
        return cls(
            deltas,
            metadata["base_sha256"],
            metadata["source"],
            _left_out(json.loads(metadata["left_out"])),
            float(metadata["kinship"]),
            metadata.get("note", ""),
        )


def _changed_all_the_same(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors that no training changes, and that differ from the base's all the same."""
    found = {}
    for name in checkpoint.family.fixed:
        if name not in checkpoint.stored:
            continue
        same = checkpoint.holds(name, tuple(weights[name].shape)) and checkpoint.agrees(name, weights[name])
        if not same:
            found[checkpoint.stored[name]] = "another table of positions; the base's own is used"
    return found


def _left_out(stored: dict[str, str] | list[str]) -> dict[str, str]:
    """Files of the first version name what was left out without saying what it is."""
    return stored if isinstance(stored, dict) else dict.fromkeys(stored, "outside the encoder")
