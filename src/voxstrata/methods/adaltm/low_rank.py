"""Linear layers under low-rank changes: W x + sum_k c_k U_k (V_k x), without the merged matrix.

The same as (W + sum_k c_k U_k V_k) x (AdaLTM, equation 4, for dW_k = U_k V_k). Of W no gradient is needed, so
that a step of learning the c_k saves the matrix product that gives it, and merging; what it keeps for that is
V_k x, a few numbers per frame. As nothing is merged, each clip of a batch can have coefficients of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from voxstrata.backbone.attention import FastWavLMAttention
from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.replaced import forward_replaced
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.factors import Change, Factors

#: Numbers in the factors of all vectors, as a share of the matrix's, up to which a layer computes with the
#: factors: above it a forward and backward through them costs more than the gradient of a merged matrix.
_LARGEST_SHARE = 1 / 3


@dataclass(frozen=True)
class JoinedFactors:
    """The factors of all vectors for one linear layer.

    Args:
        left: [out, R], those of the vectors side by side.
        right: [R, in].
        owners: long [R], the vector k that each belongs to.
    """

    left: Tensor
    right: Tensor
    owners: Tensor


def called_linears(model: nn.Module) -> frozenset[str]:
    """Names of linear layers' weights that a model uses by calling the layer, not by reading its weight.

    transformers' own attention of WavLM reads them.
    """
    readers = [
        f"{path}."
        for path, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        or (isinstance(module, WavLMAttention) and not isinstance(module, FastWavLMAttention))
    ]
    return frozenset(
        f"{path}.weight"
        for path, module in model.named_modules()
        if type(module) is nn.Linear and not path.startswith(tuple(readers))
    )


def joined(
    deltas: Sequence[Mapping[str, Change]], called: frozenset[str]
) -> tuple[dict[str, JoinedFactors], list[dict[str, Change]]]:
    """The factors of those linear layers that need no merged matrix.

    Args:
        deltas: K vectors.
        called: weights of linear layers, of `called_linears`.

    Returns:
        Name of the weight -> joined factors; and the vectors, whose factors are parts of those.
    """
    found: dict[str, JoinedFactors] = {}
    changes = [dict(vector) for vector in deltas]
    for name in sorted(called & {name for vector in deltas for name in vector}):
        present = {k: vector[name] for k, vector in enumerate(deltas) if name in vector}
        pairs = {k: change for k, change in present.items() if isinstance(change, Factors)}
        first = next(iter(pairs.values()), None)
        if first is None or len(pairs) < len(present):
            continue
        if sum(pair.numel for pair in pairs.values()) > _LARGEST_SHARE * first.shape[0] * first.shape[1]:
            continue
        left = torch.cat([pair.left for pair in pairs.values()], dim=1)
        right = torch.cat([pair.right for pair in pairs.values()])
        ranks = {k: pair.rank for k, pair in pairs.items()}
        owners = torch.tensor([k for k, rank in ranks.items() for _ in range(rank)], device=left.device)
        found[name] = JoinedFactors(left, right, owners)
        start = 0
        for k, rank in ranks.items():
            changes[k][name] = Factors(left[:, start : start + rank], right[start : start + rank])
            start += rank
    return found, changes


def scales_of(linears: Mapping[str, JoinedFactors], coefficients: Tensor) -> dict[str, Tensor]:
    """The coefficients that belong to each column of joined factors; differentiable.

    Args:
        linears: name of a weight -> joined factors.
        coefficients: [..., 1 + L, K], a row per group; or [..., 1, K], one row for all.

    Returns:
        name -> [..., R].
    """
    rows = coefficients.unbind(-2)
    return {
        name: rows[layer_index(name) if len(rows) > 1 else 0][..., factors.owners]
        for name, factors in linears.items()
    }


@contextmanager
def low_rank_linears(
    model: nn.Module,
    linears: Mapping[str, JoinedFactors],
    scales: Mapping[str, Tensor],
    offsets: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """Inside, linear layers add their low-rank changes to what they compute.

    Args:
        model: that has them.
        linears: name of the weight in this model -> joined factors.
        scales: the same names -> coefficients [R], or [B, R] with a row per clip.
        offsets: names of those whose bias each clip changes, too -> [B, out].

    Raises:
        CheckpointError: if the model did not call one of them: then its change was lost.
    """
    called: set[str] = set()
    with ExitStack() as stack:
        for name, factors in linears.items():
            linear = model.get_submodule(name.removesuffix(".weight"))
            offset = None if offsets is None else offsets.get(name)
            forward = partial(_changed, linear, factors, scales[name], offset, partial(called.add, name))
            stack.enter_context(forward_replaced(linear, forward))
        yield
    if missed := sorted(set(linears) - called):
        raise CheckpointError(
            f"this encoder reads {missed[0]} without calling its layer, which low-rank vectors need; give "
            "the vectors multiplied out: vector.expanded()"
        )


def _changed(
    linear: nn.Module,
    factors: JoinedFactors,
    scale: Tensor,
    offset: Tensor | None,
    called: Callable[[], None],
    states: Tensor,
) -> Tensor:
    """W x + b + U (c * (V x)).

    Args:
        linear: W and b.
        factors: U and V.
        scale: c [R] or [B, R].
        offset: what is added to b, [B, out]; None for nothing.
        called: notes the call.
        states: x [..., in] or [B, ..., in].
    """
    called()
    assert isinstance(linear, nn.Linear)
    exact, between = linear.weight.dtype, (1,) * (states.ndim - 2)
    if scale.ndim == 2:
        scale = scale.view(len(scale), *between, -1)
    inner = (F.linear(states, factors.right.to(exact)) * scale).to(exact)
    left = factors.left.to(exact)
    if torch.is_autocast_enabled(states.device.type):
        changed = F.linear(states, linear.weight, linear.bias) + F.linear(inner, left)
    else:
        # Added where the product lies: no further tensor of its size.
        rows = F.linear(states.flatten(0, -2), linear.weight, linear.bias)
        changed = rows.addmm_(inner.flatten(0, -2), left.T).view(*states.shape[:-1], -1)
    return changed if offset is None else changed + offset.view(len(offset), *between, -1)
