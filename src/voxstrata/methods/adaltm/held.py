"""What a merge holds: the tensors of its base, and of its vectors as a merge rule edits them.

A rule edits vectors once, before their coefficients are learned. A learned coefficient per layer over vectors
that `ties` edits is the merge of AdaMerging++ (Yang et al. 2024, arXiv 2310.02575), which learns it from the
entropy of answers, without labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.errors import CheckpointError
from voxstrata.merging.rules.arithmetic import TaskArithmetic
from voxstrata.merging.rules.registry import RULES
from voxstrata.merging.rules.rule import TensorToMerge, VectorRule
from voxstrata.methods.adaltm.factors import Change, FactoredDeltas, Factors
from voxstrata.methods.adaltm.low_rank import JoinedFactors, called_linears, joined
from voxstrata.methods.adaltm.task_vector import TaskVector

#: The rule that leaves vectors as they are.
PLAIN = TaskArithmetic.name


def vector_rule(name: str) -> VectorRule[Any]:
    """A rule whose coefficients can be learned.

    Raises:
        CheckpointError: if there is none of that name, or it merges in another way than by adding vectors.
    """
    rule = RULES.get(name)
    if isinstance(rule, VectorRule):
        return rule
    allowed = [other for other, found in RULES.items() if isinstance(found, VectorRule)]
    found = f"coefficients of the merge rule {name!r} cannot be learned, since it does not add task vectors"
    if rule is None:
        found = f"there is no merge rule {name!r}"
    raise CheckpointError(f"{found}; allowed are {', '.join(allowed)}")


def edited_vectors(
    vectors: Mapping[str, TaskVector],
    base: SpeechEncoder,
    rule: str,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> dict[str, TaskVector]:
    """The vectors as a rule edits them, tensor by tensor in float64.

    Args:
        vectors: name -> task vector, K of them.
        base: that they were taken from.
        rule: its name; its options have their defaults.
        seed: of rules that draw at random.
        dtype: of the edited differences; None keeps theirs.

    Returns:
        name -> edited vector; without the tensors that no vector has.

    Raises:
        CheckpointError: see `vector_rule`.
    """
    editing = vector_rule(rule)
    if not vectors or rule == PLAIN:
        return dict(vectors)
    options = editing.options()
    edited: dict[str, dict[str, Tensor]] = {name: {} for name in vectors}
    for name, weight in base.weights().items():
        deltas = [vector.deltas.get(name) for vector in vectors.values()]
        given = next((delta for delta in deltas if delta is not None), None)
        if given is None:
            continue
        plain = weight.cpu().double()
        experts = tuple(plain if delta is None else plain + delta.cpu().double() for delta in deltas)
        tensor = TensorToMerge(name, plain, experts, (1.0,) * len(experts), _seed_of(seed, name))
        for deltas_of, delta in zip(edited.values(), editing.edited(tensor, options), strict=True):
            deltas_of[name] = delta.to(given.device, dtype or given.dtype)
    return {
        name: TaskVector(
            deltas, given.base_fingerprint, given.source, given.left_out, given.kinship, given.note
        )
        for (name, given), deltas in zip(vectors.items(), edited.values(), strict=True)
    }


@dataclass
class Held:
    """Base and vectors as tensors of a merge, and of its twins.

    Args:
        weights: name -> floating-point tensor of the base.
        counters: its other tensors.
        deltas: K vectors without their zero tensors.
        called: linear layers of the base's model that compute by being called.
        linears: name of a linear layer's weight -> the factors of all vectors, where they are multiplied with
            the layer's input and never with each other.
    """

    weights: dict[str, Tensor]
    counters: dict[str, Tensor]
    deltas: list[dict[str, Change]]
    called: frozenset[str]
    linears: dict[str, JoinedFactors] = field(init=False)

    def __post_init__(self) -> None:
        self.linears, self.deltas = joined(self.deltas, self.called)

    @classmethod
    def of(cls, base: SpeechEncoder, vectors: Iterable[TaskVector], dtype: torch.dtype | None) -> Held:
        """What a merge holds of an encoder and vectors."""
        state = {name: tensor.detach() for name, tensor in base.model.state_dict().items()}
        weights = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        counters = {name: tensor for name, tensor in state.items() if name not in weights}
        device = next(iter(weights.values())).device
        held = [_held(vector, device, dtype) for vector in vectors]
        return cls(weights, counters, held, called_linears(base.model))

    @property
    def merged_deltas(self) -> list[dict[str, Change]]:
        """The vectors without what `linears` has."""
        return [
            {name: one for name, one in vector.items() if name not in self.linears} for vector in self.deltas
        ]

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Moves or converts all of it; once more for a twin finds it done."""
        self.weights = {name: fn(tensor) for name, tensor in self.weights.items()}
        self.counters = {name: fn(tensor) for name, tensor in self.counters.items()}
        changes = [
            {name: one.applied(fn) if isinstance(one, Factors) else fn(one) for name, one in vector.items()}
            for vector in self.deltas
        ]
        self.linears, self.deltas = joined(changes, self.called)


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


def _held(vector: TaskVector, device: torch.device, dtype: torch.dtype | None) -> dict[str, Change]:
    """The tensors that a vector changes, in the dtype to be held."""
    deltas = vector.deltas
    factors = deltas.factors if isinstance(deltas, FactoredDeltas) else {}
    dense = deltas.dense if isinstance(deltas, FactoredDeltas) else deltas
    whole = {name: delta.to(device, dtype) for name, delta in dense.items() if bool(delta.any())}
    pairs = {name: pair.applied(lambda part: part.to(device, dtype)) for name, pair in factors.items()}
    if dtype is not None:
        # Refuses what overflowed.
        TaskVector(FactoredDeltas(whole, pairs), vector.base_fingerprint, vector.source)
    return {
        name: pairs[name] if name in pairs else whole[name]
        for name in deltas
        if name in pairs or name in whole
    }
