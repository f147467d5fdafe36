"""One lambda step, exact and lean: the forward whose backward needs no merged weights and keeps no gradients.

dL/dlambda_k(l) = <dL/dW(l), dW_k(l)> (the derivative of AdaLTM, equation 4). Each layer is merged just before
it runs and let go just after; its backward merges it again, tensor by tensor, and turns each weight's
gradient into K numbers as soon as it is there. Outputs of norms and activations, which cost little, are
computed again too. What no vector changes is the base's own tensor: no copy, no gradient, and no graph before
the first tensor that one changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.replaced import forward_replaced
from voxstrata.methods.adaltm.factors import Change
from voxstrata.methods.adaltm.lean.heap import Heap
from voxstrata.methods.adaltm.lean.rebuilt import Rebuilt, rebuilding, source_of
from voxstrata.methods.adaltm.low_rank import JoinedFactors, low_rank_linears, scales_of
from voxstrata.methods.adaltm.sums import inner_products, merge_values

#: Weights of a unit on a CPU from which idle memory is looked at around it.
_LARGE_BYTES = 2**20
#: Idle memory that is left alone, as a share of all weights: less memory costs more page faults.
_IDLE_SHARE = 1 / 6


class MergeTensor(torch.autograd.Function):
    """W + sum_k c_k dW_k of one tensor; keeps references, and K inner products of the gradient."""

    @staticmethod
    def forward(
        ctx: Any, row: Tensor, deltas: Sequence[Change | None], merge: Callable[[], Tensor]
    ) -> Tensor:
        """The merged tensor.

        Args:
            ctx: autograd's.
            row: [K] coefficients, for their gradient.
            deltas: K tensors or factors of the result's shape; None for zero.
            merge: computes it.
        """
        ctx.deltas = deltas
        ctx.precision = row.dtype
        return merge()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Gradient [K] of the coefficients."""
        with torch.autocast(gradient.device.type, enabled=False):
            return inner_products(gradient, ctx.deltas).to(ctx.precision), None, None


@dataclass(frozen=True)
class Merge:
    """What is merged in one step; references only.

    Args:
        weights: name -> weight of the base.
        deltas: K task vectors without their zero tensors.
        linears: name of a linear layer's weight -> factors that are multiplied with its input instead.
        coefficients: [1 + L, K], or [1, K] for all groups.
        rows: the same by row, [K].
        values: the same as numbers.
    """

    weights: Mapping[str, Tensor]
    deltas: Sequence[Mapping[str, Change]]
    linears: Mapping[str, JoinedFactors]
    coefficients: Tensor
    rows: Sequence[Tensor]
    values: Sequence[Sequence[float]]

    @classmethod
    def of(
        cls,
        weights: Mapping[str, Tensor],
        deltas: Sequence[Mapping[str, Change]],
        linears: Mapping[str, JoinedFactors],
        coefficients: Tensor,
    ) -> Merge:
        """The merge under coefficients [1 + L, K] or [1, K]."""
        values = coefficients.detach().tolist()
        return cls(weights, deltas, linears, coefficients, coefficients.unbind(0), values)

    @contextmanager
    def within(self, module: nn.Module, prefix: str, names: Sequence[str]) -> Iterator[None]:
        """Inside, a part of the model computes with merged weights.

        Args:
            module: the part.
            prefix: of its names in the model, with a dot at the end; or "".
            names: of its tensors in the model.
        """
        linears = {name: self.linears[name] for name in names if name in self.linears}
        scales = scales_of(linears, self.coefficients)
        tensors = {name.removeprefix(prefix): self.tensor(name) for name in names}
        with (
            swapped(module, tensors),
            low_rank_linears(
                module,
                {name.removeprefix(prefix): factors for name, factors in linears.items()},
                {name.removeprefix(prefix): scale for name, scale in scales.items()},
            ),
        ):
            yield

    def tensor(self, name: str) -> Tensor:
        """A merged tensor, marked as computable again; the base's own where no vector changes it so."""
        weight = self.weights[name]
        if name in self.linears:
            return weight
        deltas = [vector.get(name) for vector in self.deltas]
        if all(delta is None for delta in deltas):
            return weight
        group = layer_index(name) if len(self.rows) > 1 else 0
        values = self.values[group]
        merge = partial(merge_values, weight, deltas, values)
        merged_by: Callable[..., Tensor] = MergeTensor.apply
        merged = merged_by(self.rows[group], deltas, merge)
        _as_soon_as_ready(merged)
        Rebuilt(merged, merge)
        return merged


def _as_soon_as_ready(merged: Tensor) -> None:
    """Lets autograd turn a weight's gradient into K numbers at once, not after the layer's other ones."""
    prioritise = getattr(merged.grad_fn, "_set_sequence_nr", None)
    if prioritise is not None:
        prioritise(2**63 - 1)


@contextmanager
def swapped(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Puts tensors in the place of a module's parameters and buffers, by their dotted names."""
    with ExitStack() as stack:
        for name, tensor in tensors.items():
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            place: dict[str, Any] = owner._parameters if last in owner._parameters else owner._buffers
            stack.callback(place.__setitem__, last, place[last])
            place[last] = tensor
        yield


@contextmanager
def merging(
    model: nn.Module,
    merge: Merge,
    counters: Mapping[str, Tensor],
    heap: Heap,
    *,
    gradient_checkpointing: bool = False,
) -> Iterator[None]:
    """Inside, a model computes with merged weights, and keeps little for the backward pass.

    Args:
        model: a transformers speech encoder in eval mode; its own tensors are not read.
        merge: what to merge.
        counters: the model's other tensors.
        heap: looked at around each large unit; the same in every step of a model.
        gradient_checkpointing: keep of each layer its input only, and run it again in the backward.
    """
    units = dict(_units(model))
    inside = {prefix: [name for name in merge.weights if name.startswith(f"{prefix}.")] for prefix in units}
    taken = {name for names in inside.values() for name in names}
    outside = [name for name in merge.weights if name not in taken]
    on_cpu = _bytes_on_cpu(merge, merge.weights)
    with ExitStack() as stack:
        stack.enter_context(swapped(model, {**counters, **merge.weights}))
        stack.enter_context(merge.within(model, "", outside))
        for prefix, unit in units.items():
            forward = partial(_run_merged, unit, unit.forward, merge, prefix, inside[prefix])
            if gradient_checkpointing:
                forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
            if _bytes_on_cpu(merge, inside[prefix]) >= _LARGE_BYTES:
                forward = partial(_tidied, forward, partial(heap.give_back, int(_IDLE_SHARE * on_cpu)))
            stack.enter_context(forward_replaced(unit, forward))
        for module in model.modules():
            if _is_cheap(module):
                stack.callback(module.register_forward_hook(_remember).remove)
        stack.enter_context(rebuilding())
        yield


def _units(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that are merged one at a time: whatever transformers itself would checkpoint."""
    for name, child in model.named_children():
        if isinstance(child, GradientCheckpointingLayer) or layer_index(f"{prefix}{name}.") > 0:
            yield f"{prefix}{name}", child
        else:
            yield from _units(child, f"{prefix}{name}.")


def _run_merged(
    unit: nn.Module,
    forward: Callable[..., Any],
    merge: Merge,
    prefix: str,
    names: Sequence[str],
    *args: Any,
    **kwargs: Any,
) -> Any:
    with merge.within(unit, f"{prefix}.", names):
        return forward(*args, **kwargs)


def _bytes_on_cpu(merge: Merge, names: Iterable[str]) -> int:
    weights = [merge.weights[name] for name in names]
    return sum(weight.nbytes for weight in weights if weight.device.type == "cpu")


def _tidied(forward: Callable[..., Any], tidy: Callable[[], None], *args: Any, **kwargs: Any) -> Any:
    """Runs a unit; too much idle memory is given back before it and before its backward."""
    tidy()
    output = forward(*args, **kwargs)
    states = output[0] if isinstance(output, tuple) else output
    if isinstance(states, Tensor) and states.requires_grad:
        before_backward: Callable[[Callable[[Tensor], None]], object] = states.register_hook
        before_backward(lambda _: tidy())
    return output


def _is_cheap(module: nn.Module) -> bool:
    """Norms, and modules without parameters: activations, weight normalisation."""
    if isinstance(module, nn.LayerNorm | nn.GroupNorm):
        return True
    return not (module._modules or module._parameters or module._buffers)


def _remember(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """Forward hook: the module's output can be computed again from its inputs."""
    tensors = [*inputs, *(p for p in module._parameters.values() if p is not None)]
    if not isinstance(output, Tensor) or not all(isinstance(tensor, Tensor) for tensor in tensors):
        return
    same = any(output.data_ptr() == tensor.data_ptr() for tensor in tensors)
    if not output.requires_grad or output._is_view() or same:
        return
    names = [name for name, parameter in module._parameters.items() if parameter is not None]
    device = output.device.type
    autocast = partial(
        torch.autocast,
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    )
    again = partial(_run_again, module, names, len(inputs), autocast)
    Rebuilt(output, again, [source_of(tensor) for tensor in tensors])


def _run_again(
    module: nn.Module,
    names: Sequence[str],
    count: int,
    autocast: Callable[[], torch.autocast],
    *tensors: Tensor,
) -> Tensor:
    with autocast():
        output: Tensor = functional_call(
            module, dict(zip(names, tensors[count:], strict=True)), tensors[:count]
        )
    return output
