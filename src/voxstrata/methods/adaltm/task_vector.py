"""Task vectors: what fine-tuning changed in a backbone (AdaLTM, equations 2 and 3)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from voxstrata.backbone.checkpoints import Checkpoint, open_checkpoint
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.finite import require_finite
from voxstrata.backbone.groups import group_norms, partition
from voxstrata.backbone.input_settings import input_settings_of, require_same_input, stored_input_settings
from voxstrata.backbone.kinship import KINSHIP_THRESHOLD, Kinship
from voxstrata.backbone.layouts import describe_left_out
from voxstrata.backbone.locate import locate
from voxstrata.backbone.plain_values import check_layers
from voxstrata.documents import parse_json
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.factors import Factors
from voxstrata.runs import written_whole

if TYPE_CHECKING:
    from voxstrata.methods.adaltm.compressed import CompressedVector

FORMAT = "voxstrata-task-vector-1"
#: Of a vector whose matrices are stored as factors.
LOW_RANK_FORMAT = "voxstrata-low-rank-vector-1"
#: Of safetensors: the number formats in which differences are stored.
_TYPES = ("F64", "F32", "F16", "BF16")
_ZERO = "zero in all groups: the expert's encoder is the base's own, and merging it changes nothing"
#: Characters of a source that stand in one line with the rest; of a longer path the end.
_LONGEST_SOURCE = 60


def is_task_vector(path: str | Path) -> bool:
    """Whether a file is a saved task vector (known from its header)."""
    try:
        # Not a pipe: there is nothing to seek in.
        if not Path(path).is_file():
            return False
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") in (FORMAT, LOW_RANK_FORMAT)
    except (OSError, SafetensorError):
        return False


def source_of_vector(path: str | Path) -> str:
    """Where the expert of a saved task vector lay (known from its header).

    Raises:
        CheckpointError: if the header does not tell.
    """
    with safe_open(path, framework="pt") as file:
        return _Told.of(file.metadata() or {}, path).source


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
        factors: of the differences that a LoRA adapter holds as products, by name.

    Raises:
        CheckpointError: if a difference is not finite, or larger than any that training makes.

    Example:
        ``asr = vs.TaskVector.between(vs.load_backbone("wavlm-tiny"), "runs/asr")``
    """

    deltas: Mapping[str, Tensor]
    base_fingerprint: str
    source: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    kinship: float = 1.0
    note: str = ""
    factors: Mapping[str, Factors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            require_finite(self.deltas.items(), self.source)
        except CheckpointError as fault:
            raise CheckpointError(f"{fault}; or the vector does not fit its number format") from None

    @classmethod
    def between(cls, base: SpeechEncoder, expert: str | Path, *, allow_foreign: bool = False) -> TaskVector:
        """The difference of an expert from a base.

        Args:
            base: what the expert was fine-tuned from.
            expert: checkpoint file or folder, packaged name or hub id; heads are left out.
            allow_foreign: take an expert that does not look fine-tuned from this base, or expects its input
                in another form.

        Raises:
            CheckpointError: if the expert's tensors do not fit the base's, it expects its input in another
                form (other normalisation or features), or it comes from another base (the median correlation
                of its transformer matrices with the base's is below 0.2).
        """
        place = locate(expert)
        checkpoint = open_checkpoint(place, base.family)
        weights = base.weights()
        checkpoint.check(weights)
        notes = [checkpoint.lora.describe()] if checkpoint.lora else []
        if not allow_foreign:
            ours = input_settings_of(base.model.config, normalize=base.normalize, window=base.window)
            notes += require_same_input(str(expert), stored_input_settings(place, checkpoint.settings), ours)
        kinship = Kinship()
        deltas, factors, rounded = {}, {}, set[str]()
        for name, weight in weights.items():
            weight = weight.float().cpu()
            deltas[name] = checkpoint.difference(name, weight, rounded)
            if checkpoint.lora and name in checkpoint.lora.factors and name not in checkpoint.stored:
                factors[name] = Factors(*checkpoint.lora.scaled_factors(name))
            if name in checkpoint.stored:
                kinship.add(name, weight, weight + deltas[name])
        left_out = {**checkpoint.left_out, **_changed_all_the_same(checkpoint, weights)}
        if rounded:
            notes.append(
                f"stored in {' and '.join(sorted(rounded))}: what differs from the base by that rounding "
                "alone counts as unchanged"
            )
        note = "; ".join(notes)
        vector = cls(deltas, fingerprint(weights), str(expert), left_out, kinship.value, note, factors)
        if not kinship.related and not allow_foreign:
            raise CheckpointError(
                f"{expert} does not come from this base ({base.model.config.model_type}, "
                f"{base.num_layers} layers of {base.hidden_size}): its matrices correlate with the base's by "
                f"{kinship.value:.3f}, at least {KINSHIP_THRESHOLD} is expected; give the base it was "
                "fine-tuned from, or allow a foreign expert (allow_foreign)"
            )
        return vector

    def __repr__(self) -> str:
        """One line: where it comes from, what it holds, which groups are zero, its Euclidean norm."""
        zero = ", ".join(map(str, self.zero_groups())) or "none"
        norm = math.hypot(*self.norms())
        return (
            f"TaskVector(source={self.short_source()!r}, tensors={len(self.deltas)}, "
            f"groups={len(self.groups)}, zero groups: {zero}, norm={norm:.4g})"
        )

    def short_source(self) -> str:
        """Where the expert lay; of a long path the end."""
        return self.source if len(self.source) <= _LONGEST_SOURCE else f"...{self.source[-_LONGEST_SOURCE:]}"

    def compress(self, *, rank: int | None = None, energy: float | None = None) -> CompressedVector:
        """The vector in less memory: its matrices as products of two thin ones.

        A LoRA adapter's own factors are kept, so that it is exact. Other matrices keep the first directions
        of their singular value decomposition. Biases, norms and convolutions stay as they are.

        Args:
            rank: directions of each matrix that are kept, at most.
            energy: keep the fewest that hold this share of each matrix's squared norm, in (0, 1].

        Returns:
            The vector with `errors`: per layer the norm of what was lost over that of the difference.

        Raises:
            CheckpointError: if both or neither is given, or one is out of its range.

        Example:
            ``small = asr.compress(rank=16)``; then ``vs.MergedBackbone(base, {"asr": small})``.
        """
        from voxstrata.methods.adaltm.compressed import Compression, compressed

        return compressed(self, Compression(rank, energy))

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

    @property
    def is_zero(self) -> bool:
        """Whether fine-tuning touched nothing: merged or not, it is the base."""
        return len(self.zero_groups()) == len(self.groups)

    def coverage(self) -> str:
        """What the vector covers, e.g. "488 tensors, each in exactly one of 25 groups; left out: ...".

        It begins with a warning where the vector is zero.
        """
        parts = [f"{len(self.deltas)} tensors, each in exactly one of {len(self.groups)} groups"]
        zero = self.zero_groups()
        if len(zero) == len(self.groups):
            parts.insert(0, f"warning: {_ZERO}")
        elif zero:
            parts.append(f"zero groups: {', '.join(map(str, zero))}")
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
            path: of the file; new, or a saved vector.
            dtype: float32, bfloat16 or float16.

        Raises:
            CheckpointError: if a value is too large for the dtype, or the file is another one or cannot be
                written.
        """
        path = Path(path)
        if path.exists() and not is_task_vector(path):
            raise CheckpointError(f"{path} is there already and is no task vector; give another file")
        tensors, metadata = self._stored(dtype)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata |= {
            "base_fingerprint": self.base_fingerprint,
            "source": self.source,
            "left_out": json.dumps(dict(self.left_out)),
            "kinship": repr(self.kinship),
            "note": self.note,
        }
        with written_whole(path, failures=(SafetensorError,), error=CheckpointError) as partial:
            save_file(tensors, partial, metadata=metadata)

    def _stored(self, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors as they are stored in a number format, and what the header tells of their form.

        Raises:
            CheckpointError: if a value is too large for the format.
        """
        deltas = {name: delta.detach().cpu().to(dtype) for name, delta in self.deltas.items()}
        replace(self, deltas=deltas)  # refuses what overflowed
        return deltas, {"format": FORMAT}

    @classmethod
    def load(cls, path: str | Path) -> TaskVector:
        """Reads a vector that `save` wrote; the differences keep their stored dtype.

        Raises:
            CheckpointError: if the file is none.
        """
        try:
            if not Path(path).is_file():
                raise CheckpointError(f"cannot read {path} as a task vector: there is no such file")
            with safe_open(path, framework="pt") as file:
                stated = _Told.of(file.metadata() or {}, path)
                names = list(file.keys())
                check_layers(names, path)
                types = {name: file.get_slice(name).get_dtype() for name in names}
                if odd := [f"{name} ({kind})" for name, kind in types.items() if kind not in _TYPES]:
                    raise CheckpointError(
                        f"{path} holds differences that are no floats, e.g. {odd[0]}; take the vector "
                        "again with TaskVector.between(base, expert)"
                    )
                tensors = {name: file.get_tensor(name).clone() for name in names}
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"cannot read {path} as a task vector: {fault}") from None
        if stated.errors is not None:
            from voxstrata.methods.adaltm.compressed import CompressedVector, read_factors

            deltas = read_factors(tensors, path)
            partition(deltas)
            return CompressedVector(deltas, *stated.about, errors=stated.errors)
        partition(tensors)
        return cls(tensors, *stated.about)


def require_a_change(vectors: Mapping[str, TaskVector]) -> list[str]:
    """What is to be said of vectors before they are merged: a line for each that is zero.

    Raises:
        CheckpointError: if all are zero: then what is merged is the base, whatever the coefficients.
    """
    zero = [name for name, vector in vectors.items() if vector.is_zero]
    if zero and len(zero) == len(vectors):
        raise CheckpointError(
            f"there is nothing to merge, as {', '.join(zero)} changed no tensor of the base's encoder; give "
            "checkpoints whose encoder was fine-tuned, not a head over a frozen one"
        )
    return [f"warning: vector {name}: {_ZERO}" for name in zero]


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


@dataclass(frozen=True)
class _Told:
    """What the header of a saved vector tells; see `TaskVector`, and `CompressedVector` for the errors."""

    base_fingerprint: str
    source: str
    left_out: Mapping[str, str]
    kinship: float
    note: str
    errors: tuple[float, ...] | None

    @property
    def about(self) -> tuple[str, str, Mapping[str, str], float, str]:
        """The fields of a vector behind its differences."""
        return self.base_fingerprint, self.source, self.left_out, self.kinship, self.note

    @classmethod
    def of(cls, metadata: Mapping[str, str], path: str | Path) -> _Told:
        """Reads the header.

        Raises:
            CheckpointError: if it is none of a task vector, or an entry lacks or is not what it should be.
        """
        kind = metadata.get("format")
        if kind not in (FORMAT, LOW_RANK_FORMAT):
            raise CheckpointError(f"{path} is no task vector; take one with TaskVector.between(base, expert)")
        advice = "take the vector again with TaskVector.between(base, expert)"
        try:
            # Older files call it sha256, which elsewhere is of a file's bytes.
            base = metadata.get("base_fingerprint", metadata.get("base_sha256", ""))
            source = metadata["source"]
            kinship = float(metadata["kinship"])
            what = f"left_out in the header of {path}"
            left_out = parse_json(metadata["left_out"], what, error=CheckpointError, advice=advice)
            if not isinstance(left_out, dict):
                # Files of the first version name what was left out without saying what it is.
                left_out = dict.fromkeys(left_out, "outside the encoder")
            good = all(isinstance(text, str) for pair in left_out.items() for text in pair)
            errors = None
            if kind == LOW_RANK_FORMAT:
                what = f"errors in the header of {path}"
                errors = tuple(
                    map(float, parse_json(metadata["errors"], what, error=CheckpointError, advice=advice))
                )
        except (KeyError, ValueError, TypeError):
            good, kinship = False, 0.0
        if not good or not abs(kinship) < 1.01 or not re.fullmatch("[0-9a-f]{64}", base):
            raise CheckpointError(
                f"the header of {path} lacks base_fingerprint, source, left_out and kinship of a task "
                f"vector; {advice}"
            )
        return cls(base, source, left_out, kinship, metadata.get("note", ""), errors)
