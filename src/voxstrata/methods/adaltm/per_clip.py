"""Coefficients of each clip in a batch, from one base and one set of vectors.

Where vectors change nothing but modules that treat each clip by itself (linear layers, norms, convolutions
behind the front end), the batch runs through the encoder once: low-rank linear layers multiply each clip's
V x by its own coefficients, other modules run once for each different row of coefficients. Otherwise, as with
WavLM's table of relative positions, which all clips share, the encoder runs once for each different row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.backbone.encoder import SpeechEncoder, States
from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.replaced import forward_replaced
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.factors import multiplied_out
from voxstrata.methods.adaltm.held import Held
from voxstrata.methods.adaltm.lean.engine import swapped
from voxstrata.methods.adaltm.lean.front import from_front
from voxstrata.methods.adaltm.low_rank import low_rank_linears, scales_of
from voxstrata.methods.adaltm.sums import merged_weights

if TYPE_CHECKING:
    from voxstrata.methods.adaltm.merged import MergedBackbone

_BY_CLIP = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Conv1d)


@dataclass(frozen=True)
class _Rows:
    """Clips that are computed under the same coefficients.

    Args:
        each: [B, 1 + L, K].
        members: clips of equal coefficients together; one by one where each needs a gradient of its own.
    """

    each: Tensor
    members: Sequence[Tensor]

    @classmethod
    def of(cls, each: Tensor) -> _Rows:
        """Divides a batch."""
        if torch.is_grad_enabled() and each.requires_grad:
            return cls(each, [*torch.arange(len(each), device=each.device).unsqueeze(1)])
        _, which = torch.unique(each, dim=0, return_inverse=True)
        return cls(each, [(which == one).nonzero().flatten() for one in range(int(which.max()) + 1)])

    def coefficients(self, members: Tensor) -> Tensor:
        """[1 + L, K] of clips that have the same."""
        return self.each[members[0]]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors of the members, in the order of the batch."""
        order = torch.cat([*self.members]).argsort()
        return torch.cat([*parts])[order]


def states_per_clip(
    merged: MergedBackbone, waveforms: Tensor, lengths: Tensor, front: Tensor | None, coefficients: Tensor
) -> States:
    """Hidden states of a batch, each clip under coefficients of its own; see `MergedBackbone.forward`.

    Raises:
        CheckpointError: if coefficients have another shape, or are not finite.
    """
    wanted = (len(lengths), 1 + merged.num_layers, len(merged.vectors))
    if coefficients.shape != wanted or not bool(torch.isfinite(coefficients).all()):
        raise CheckpointError(
            f"coefficients of clips are {list(coefficients.shape)}, or not finite; {list(wanted)} is needed: "
            "clips, layers 0 to L, vectors"
        )
    rows = _Rows.of(coefficients.to(merged.coefficients))
    if len(rows.members) == 1:
        return merged.states_under(rows.coefficients(rows.members[0]), waveforms, lengths, front)
    held = merged.held
    changed = _changed_modules(merged.base, held)
    if changed is None:
        return _row_by_row(merged, rows, waveforms, lengths, front)
    return _together(merged, changed, rows, waveforms, lengths, front)


def runs_once(merged: MergedBackbone) -> bool:
    """Whether clips of different coefficients run through the encoder together, without merged matrices."""
    return bool(merged.held.linears) and _changed_modules(merged.base, merged.held) is not None


def both_states(
    first: MergedBackbone,
    second: MergedBackbone,
    waveforms: Tensor,
    lengths: Tensor,
    front: Tensor | None = None,
) -> tuple[States, States]:
    """What two merges of the same base and vectors (twins) give for the same clips, in one run.

    Args:
        first: its coefficients are those of the first states.
        second: likewise.
        waveforms: [B, N] raw samples at 16 kHz.
        lengths: [B] valid samples.
        front: what `front` gave for these clips; None to compute it.
    """
    clips, layers = len(lengths), 1 + first.num_layers
    each = torch.cat([one.coefficients.expand(clips, layers, -1) for one in (first, second)])
    states = states_per_clip(
        first,
        torch.cat([waveforms, waveforms]),
        torch.cat([lengths, lengths]),
        None if front is None else torch.cat([front, front]),
        each,
    )
    halves = [slice(0, clips), slice(clips, 2 * clips)]
    return tuple(  # type: ignore[return-value]  # two of them
        States(tuple(layer[half] for layer in states.layers), states.lengths[half]) for half in halves
    )


def _changed_modules(base: SpeechEncoder, held: Held) -> dict[str, list[str]] | None:
    """Path of a module that treats each clip by itself -> the tensors in it that vectors change.

    None if a tensor is changed outside such modules, or in the front end, which may see pieces of a batch.
    """
    modules = dict(base.model.named_modules())
    found: dict[str, list[str]] = {}
    for name in {name for vector in held.deltas for name in vector}:
        if name in base.family.optional:
            continue  # it has no effect outside pre-training
        parts = name.split(".")
        paths = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
        owner = next((path for path in paths if isinstance(modules.get(path), _BY_CLIP)), None)
        if owner is None or base.family.is_front_end(name):
            return None
        if isinstance(modules[owner], nn.Linear) and f"{owner}.weight" not in held.called:
            return None
        found.setdefault(owner, []).append(name)
    return found


def _row_by_row(
    merged: MergedBackbone, rows: _Rows, waveforms: Tensor, lengths: Tensor, front: Tensor | None
) -> States:
    """The encoder for each different row of coefficients."""
    frames = merged.base.frames_of(lengths)
    layers: list[list[Tensor]] = [[] for _ in range(merged.num_layers)]
    for members in rows.members:
        given = front
        if front is not None:
            given = front[members][..., : merged.base.frames_of(lengths[members])]
        states = merged.states_under(rows.coefficients(members), waveforms[members], lengths[members], given)
        for found, layer in zip(layers, states.layers, strict=True):
            found.append(F.pad(layer, (0, 0, 0, frames - layer.shape[1])))
    return States(tuple(rows.joined(found) for found in layers), merged.frame_lengths(lengths))


def _together(
    merged: MergedBackbone,
    changed: Mapping[str, Sequence[str]],
    rows: _Rows,
    waveforms: Tensor,
    lengths: Tensor,
    front: Tensor | None,
) -> States:
    """The encoder once."""
    held, encoder = merged.held, merged.skeleton
    scales = scales_of(held.linears, rows.each)
    offsets = {name: _offset(held, name.removesuffix("weight") + "bias", rows.each) for name in held.linears}
    with ExitStack() as stack:
        stack.enter_context(swapped(encoder.model, held.counters | held.weights))
        given = {name: offset for name, offset in offsets.items() if offset is not None}
        stack.enter_context(low_rank_linears(encoder.model, held.linears, scales, given))
        for path, names in changed.items():
            if f"{path}.weight" not in held.linears:
                module = encoder.model.get_submodule(path)
                forward = partial(_by_row, module, module.forward, path, names, held, rows)
                stack.enter_context(forward_replaced(module, forward))
        stack.enter_context(nullcontext() if front is None else from_front(encoder, front, lengths))
        states: States = encoder(waveforms, lengths)
    return states


def _offset(held: Held, name: str, each: Tensor) -> Tensor | None:
    """What the vectors add to a bias for each clip, [B, out]; None for nothing."""
    present = {k: vector[name] for k, vector in enumerate(held.deltas) if name in vector}
    if not present:
        return None
    rows = each[:, layer_index(name)]
    return torch.stack(
        [rows[:, k, None] * multiplied_out(change).to(each.dtype) for k, change in present.items()]
    ).sum(0)


def _by_row(
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    path: str,
    names: Sequence[str],
    held: Held,
    rows: _Rows,
    states: Tensor,
) -> Tensor:
    """A module on the clips of each row of coefficients, under the weights merged with it."""
    if len(states) != len(rows.each):
        raise CheckpointError(
            f"{path} computes {len(states)} rows of a batch of {len(rows.each)} clips, so that clips cannot "
            "have coefficients of their own; give them one by one"
        )
    base = {name: held.weights[name] for name in names}
    parts = []
    for members in rows.members:
        tensors = merged_weights(base, held.deltas, rows.coefficients(members))
        inside = {name.removeprefix(f"{path}."): tensor for name, tensor in tensors.items()}
        with swapped(module, inside):
            parts.append(forward(states[members]))
    return rows.joined(parts)
