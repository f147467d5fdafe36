"""A frozen backbone whose weights are merged anew from task vectors (AdaLTM, section 2.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.backbone.export_folder import COEFFICIENTS, export_folder
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.compressed import vector_of
from voxstrata.methods.adaltm.factors import Change
from voxstrata.methods.adaltm.held import PLAIN, Held, edited_vectors
from voxstrata.methods.adaltm.lean.engine import Merge, merging, swapped
from voxstrata.methods.adaltm.lean.front import fixed_layers, from_front, front_of
from voxstrata.methods.adaltm.lean.heap import Heap
from voxstrata.methods.adaltm.lean.rebuilt import forget
from voxstrata.methods.adaltm.low_rank import low_rank_linears, scales_of
from voxstrata.methods.adaltm.per_clip import states_per_clip
from voxstrata.methods.adaltm.sums import merged_weight_values, merged_weights
from voxstrata.methods.adaltm.task_vector import TaskVector

Granularity = Literal["layer", "global", "static"]
Engine = Literal["lean", "plain"]

#: Weights below which a kept merge costs less than one that is made again (wavlm-tiny: .83 of a step).
_SMALL_BYTES = 2**24


class MergedBackbone(nn.Module):
    """W(l) = W_base(l) + sum_k c_k(l) dW_k(l) for l = 0..L (equation 4), computed in each forward.

    Only `coefficients` are parameters and state; base and vectors are given, stay frozen, are never
    changed, and are in no state dict (they still follow `.to()`, as tensors of this module alone).
    The computation is always that of eval mode: no dropout, LayerDrop or SpecAugment.
    Where no gradient is asked for, the merge is computed once and reused until the coefficients change.
    Not for two threads at a time: export it and load the export instead.

    Args:
        base: the encoder that all vectors were taken from; its weights are shared, not copied.
        vectors: name -> task vector, K of them; none for the frozen base. Of compressed ones the factors are
            held, and linear layers learn their coefficients through them (`adaltm.low_rank`).
        granularity: "layer": a learned coefficient per group and vector, Parameter [1 + L, K];
            "global": one per vector, Parameter [1, K]; "static": fixed, buffer [1, K].
        init: start value of the coefficients, for all or per vector (the paper: 0.5).
        rule: how the vectors are edited, once and here, before they are added: a merge rule that adds task
            vectors. "task-arithmetic" leaves them as they are (`adaltm.held`).
        seed: of rules that draw at random.
        dtype: in which the vectors are held; None keeps theirs. Sums stay in the base's precision.
        engine: how gradients are had: "lean" (`lean.engine`), or "plain", which keeps all merged weights
            and their gradients: a reference, and faster for small encoders (`engine_for`).
        gradient_checkpointing: keep of each layer its input only, for the least memory; lean only.

    Raises:
        CheckpointError: if a vector belongs to another base or does not fit `dtype`, `init` names other
            vectors, or the rule does not add vectors.

    Example:
        ``merged = vs.MergedBackbone(base, {"asr": asr, "ser": ser}, init=0.5)``; then
        ``merged(waveforms, lengths)`` gives states as `SpeechEncoder` does, and ``merged.export("merged")``
        writes a transformers folder.
    """

    coefficients: Tensor

    def __init__(
        self,
        base: SpeechEncoder,
        vectors: Mapping[str, TaskVector],
        *,
        granularity: Granularity = "layer",
        init: float | Mapping[str, float] = 0.5,
        rule: str = PLAIN,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        engine: Engine = "lean",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_engine(engine, gradient_checkpointing)
        if granularity not in ("layer", "global", "static"):
            raise CheckpointError(f"unknown granularity {granularity!r}; allowed are layer, global, static")
        if vectors:
            found = fingerprint(base.weights())
            for vector in vectors.values():
                vector.check_fingerprint(found)
        self.vectors = tuple(vectors)
        self.rule = rule
        self.granularity = granularity
        self.engine = engine
        self.gradient_checkpointing = gradient_checkpointing
        self.num_layers = base.num_layers
        self.hidden_size = base.hidden_size
        # In a tuple, so that the caller's encoder does not become a sub-module.
        self._given = (base,)
        self._skeleton = (_without_weights(base),)
        edited = edited_vectors(vectors, base, rule, seed=seed, dtype=dtype)
        self._held = Held.of(base, edited.values(), dtype)
        device = next(iter(self._weights.values())).device
        self._reused: tuple[Tensor, dict[str, Tensor]] | None = None
        self._heap = Heap()
        rows = 1 + self.num_layers if granularity == "layer" else 1
        start = torch.tensor([_start(init, self.vectors)], device=device).reshape(1, -1).repeat(rows, 1)
        if granularity == "static" or not vectors:
            self.register_buffer("coefficients", start)
        else:
            self.coefficients = nn.Parameter(start)

    @property
    def base(self) -> SpeechEncoder:
        """The encoder that was given."""
        return self._given[0]

    @property
    def skeleton(self) -> SpeechEncoder:
        """Its modules, with tensors that hold no memory: what computes under the weights put into it."""
        return self._skeleton[0]

    @property
    def held(self) -> Held:
        """Base and vectors, as they are held; not to be changed."""
        return self._held

    @property
    def _weights(self) -> dict[str, Tensor]:
        return self._held.weights

    @property
    def _counters(self) -> dict[str, Tensor]:
        return self._held.counters

    @property
    def _deltas(self) -> list[dict[str, Change]]:
        return self._held.deltas

    def twin(self) -> MergedBackbone:
        """Another merge of the same base and vectors, which are held once for both; coefficients of its own.

        They start at the values that this one has now.
        """
        other = MergedBackbone.__new__(MergedBackbone)
        nn.Module.__init__(other)
        own = ("_parameters", "_buffers", "_modules", "_reused", "training")
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name not in own})
        other._reused = None
        start = self.coefficients.detach().clone()
        if isinstance(self.coefficients, nn.Parameter):
            other.coefficients = nn.Parameter(start, requires_grad=self.coefficients.requires_grad)
        else:
            other.register_buffer("coefficients", start)
        return other

    def task_vectors(self) -> dict[str, TaskVector]:
        """The vectors as they are held: what none of them changes is left out."""
        found = fingerprint(self._weights)
        return {
            name: vector_of(changes, found, name)
            for name, changes in zip(self.vectors, self._deltas, strict=True)
        }

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        front: Tensor | None = None,
        *,
        coefficients: Tensor | None = None,
    ) -> States:
        """Hidden states of a batch under the merged weights.

        Args:
            waveforms: [B, N] raw samples at 16 kHz.
            lengths: [B] valid samples.
            front: what `front` gave for these clips, now or earlier; None to compute it.
            coefficients: [B, 1 + L, K], each clip's own, in place of the module's; gradients
                reach them (`adaltm.per_clip`). None: the module's, for all clips.

        Raises:
            CheckpointError: if transformers' own gradient checkpointing is on, `front` is given though a
                vector changes it, or coefficients have another shape.
        """
        if coefficients is not None:
            return states_per_clip(self, waveforms, lengths, front, coefficients)
        return self.states_under(self.coefficients, waveforms, lengths, front)

    def states_under(
        self, coefficients: Tensor, waveforms: Tensor, lengths: Tensor, front: Tensor | None = None
    ) -> States:
        """`forward` under other coefficients than the module's, [1 + L, K] or [1, K], for all clips."""
        if front is not None:
            self.require_fixed_front(front.shape[1] if front.ndim == 4 else 0)
        learned = torch.is_grad_enabled() and coefficients.requires_grad
        encoder = self._skeleton[0]
        with nullcontext() if front is None else from_front(encoder, front, lengths):
            if not learned:
                with torch.no_grad():
                    return self._encode(self._merged_once(coefficients), waveforms, lengths)
            self._reused = None
            if self.engine == "lean":
                return self._encode_lean(coefficients, waveforms, lengths)
            linears = self._held.linears
            weights = merged_weights(self._weights, self._held.merged_deltas, coefficients)
            with low_rank_linears(encoder.model, linears, scales_of(linears, coefficients)):
                return self._encode(weights, waveforms, lengths)

    @cached_property
    def fixed_layers(self) -> int | None:
        """Lower layers that give the same under all coefficients; None where not even the front end does."""
        return fixed_layers(self.base, {name for vector in self._deltas for name in vector})

    def require_fixed_front(self, layers: int = 0) -> None:
        """Refuses vectors that change the convolutional front end, or what lies up to a layer.

        Args:
            layers: the layer, from 1; 0 for the front end alone.

        Raises:
            CheckpointError: naming the vectors, or how many layers there may be.
        """
        fixed = self.fixed_layers
        if fixed is None:
            changed = [
                name
                for name, vector in zip(self.vectors, self._deltas, strict=True)
                if any(self.base.family.is_front_end(tensor) for tensor in vector)
            ]
            raise CheckpointError(
                f"the vectors {', '.join(changed)} change the convolutional front end, so its output "
                "depends on the coefficients and cannot be kept; leave `front` out"
            )
        if layers > fixed:
            raise CheckpointError(
                f"states of {layers} layers depend on the coefficients; of this merge {fixed} may be kept"
            )

    @torch.no_grad()
    def front(self, waveforms: Tensor, lengths: Tensor, layers: int = 0) -> Tensor:
        """What does not depend on coefficients, for each clip alone.

        Args:
            waveforms: [B, N] raw samples at 16 kHz.
            lengths: [B] valid samples.
            layers: l, the lower layers to give the states of, at most `fixed_layers`; 0 for the
                convolutional front end's output.

        Returns:
            [B, C, T], or [B, l, D, T] with lower layers; zero behind each clip's end.

        Raises:
            CheckpointError: if a vector changes the front end, or one of these layers.
        """
        self.require_fixed_front(layers)
        encoder = self._skeleton[0]
        with swapped(encoder.model, self._counters | self._weights):
            return front_of(encoder, waveforms, lengths, layers)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames [B] of clips with these many samples [B]."""
        return self.base.frame_lengths(lengths)

    def coefficients_by_layer(self) -> list[list[float]]:
        """The K coefficients of each group 0..L, also where all groups share one row."""
        rows: list[list[float]] = self.coefficients.detach().tolist()
        return rows if len(rows) > 1 else [list(rows[0]) for _ in range(1 + self.num_layers)]

    def as_dict(self) -> dict[str, object]:
        """What was merged, and how, as JSON."""
        return {
            "granularity": self.granularity,
            **({} if self.rule == PLAIN else {"rule": self.rule}),
            "vectors": list(self.vectors),
            "coefficients": self.coefficients_by_layer(),
        }

    def weights(self) -> dict[str, Tensor]:
        """The merged floating-point tensors as a forward without gradients uses them."""
        return dict(self._merged_once(self.coefficients))

    @torch.no_grad()
    def merged_state(self) -> dict[str, Tensor]:
        """All tensors of the merged model in its own names, merged in float64 and rounded once."""
        coefficients = self.coefficients.double()
        merged = {
            name: merged_weights({name: weight.double()}, self._deltas, coefficients)[name].to(weight.dtype)
            for name, weight in self._weights.items()
        }
        return {name: tensor.clone() for name, tensor in (self._counters | merged).items()}

    def export(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, overwrite: bool = False
    ) -> None:
        """Writes the merged encoder as a plain transformers folder, and coefficients.json beside it.

        Args:
            folder: new or empty.
            dtype: of the stored tensors; None keeps the base's.
            overwrite: take a folder that holds something: an older export in it goes, other files stay.

        Raises:
            CheckpointError: if the folder holds something, or cannot be written.
        """
        with export_folder(Path(folder), overwrite=overwrite) as partial:
            extras = {COEFFICIENTS: self.as_dict()}
            self.base.save_with(partial, self.merged_state(), dtype=dtype, extras=extras)

    def __repr__(self) -> str:
        """One line: the base, the vectors with their mean coefficients, the engine."""
        means = self.coefficients.detach().float().mean(dim=0).tolist()
        vectors = ", ".join(f"{name} {mean:.2f}" for name, mean in zip(self.vectors, means, strict=True))
        return (
            f"MergedBackbone({self.base.described()}; {vectors or 'no vectors'} (mean coefficients); "
            f"{self.granularity}, {self.engine}{'' if self.rule == PLAIN else f', {self.rule}'})"
        )

    def _encode(self, weights: dict[str, Tensor], waveforms: Tensor, lengths: Tensor) -> States:
        tensors = {f"model.{name}": tensor for name, tensor in (self._counters | weights).items()}
        states: States = functional_call(self._skeleton[0], tensors, (waveforms, lengths))
        return states

    def _encode_lean(self, coefficients: Tensor, waveforms: Tensor, lengths: Tensor) -> States:
        self._refuse_foreign_checkpointing()
        encoder = self._skeleton[0]
        merge = Merge.of(self._weights, self._deltas, self._held.linears, coefficients)
        with merging(
            encoder.model,
            merge,
            self._counters,
            self._heap,
            gradient_checkpointing=self.gradient_checkpointing,
        ):
            states: States = encoder(waveforms, lengths)
        for layer in states.layers:
            forget(layer)
        return states

    def _merged_once(self, coefficients: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            if self._reused is None or not torch.equal(self._reused[0], coefficients):
                self._reused = None
                coefficients = coefficients.detach().clone()
                self._reused = (coefficients, merged_weight_values(self._weights, self._deltas, coefficients))
            return self._reused[1]

    def _refuse_foreign_checkpointing(self) -> None:
        if any(getattr(module, "gradient_checkpointing", False) for module in self.base.model.modules()):
            raise CheckpointError(
                "transformers' gradient checkpointing is on in the base: it would run layers again with "
                "unmerged weights; call base.model.gradient_checkpointing_disable() and give "
                "gradient_checkpointing=True to MergedBackbone"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        apply: Callable[..., nn.Module] = super()._apply
        apply(fn, recurse)
        self._held.apply(fn)
        self._reused = None
        return self


def engine_for(base: SpeechEncoder) -> Engine:
    """The faster engine: "plain" for a small encoder, whose merged weights take little, else "lean"."""
    small = sum(weight.nbytes for weight in base.weights().values()) < _SMALL_BYTES
    return "plain" if small else "lean"


def _start(init: float | Mapping[str, float], vectors: tuple[str, ...]) -> list[float]:
    if not isinstance(init, Mapping):
        return [float(init)] * len(vectors)
    if set(init) != set(vectors):
        raise CheckpointError(f"init names {sorted(init)}, but the vectors are {sorted(vectors)}")
    return [float(init[name]) for name in vectors]


def _check_engine(engine: str, gradient_checkpointing: bool) -> None:
    if engine not in ("lean", "plain"):
        raise CheckpointError(f"unknown engine {engine!r}; allowed are lean, plain")
    if gradient_checkpointing and engine == "plain":
        raise CheckpointError("gradient checkpointing is of the lean engine only; leave engine as it is")


def _without_weights(encoder: SpeechEncoder) -> SpeechEncoder:
    """A frozen copy of an encoder's modules in eval mode, with tensors that hold no memory."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        for parameter in encoder.parameters()
    }
    memo |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in encoder.buffers()}
    return copy.deepcopy(encoder, memo).eval()
