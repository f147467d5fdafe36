"""Whether headers tell of an encoder's plain weights: floating-point numbers, layers that there can be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from math import prod

from voxstrata.backbone.containers import Container, some
from voxstrata.errors import CheckpointError

#: More transformer layers than any encoder has.
MOST_LAYERS = 1000
_LAYER = re.compile(r"(?:layers|blocks)\.(\d+)\.")
_FLOATS = ("float64", "float32", "float16", "bfloat16")
#: Tensors of whole numbers that encoders have: counters and tables of places.
_WHOLE_NUMBERS = re.compile(r"(^|\.)(num_batches_tracked|position_ids|num_updates)$")
#: What bitsandbytes, GPTQ, AWQ, torchao and compressed-tensors store beside, or in place of, a weight.
_QUANTISED = re.compile(
    r"\.(SCB|weight_format|qweight|qzeros|g_idx|scales|absmax|nested_absmax|quant_map|nested_quant_map|weight_scale"
    r"|weight_scale_inv|weight_zero_point|weight_packed|weight_shape|input_scale|_packed_params(\..*)?"
    r"|quant_state\..*)$"
)


def quantised(key: str) -> bool:
    """Whether a stored name is one that quantised weights have."""
    return bool(_QUANTISED.search(key))


def check_plain(keys: Iterable[str], container: Container) -> None:
    """Refuses an encoder whose weights are not stored as plain floating-point numbers.

    Args:
        keys: stored names of its tensors.
        container: they lie in.

    Raises:
        CheckpointError: naming the tensors, and what they are.
    """
    odd = {key: container.types[key] for key in keys if quantised(key) or _odd(key, container.types[key])}
    if not odd:
        return
    strange = {kind for kind in odd.values() if kind in ("sparse", "larger than the file")}
    if strange:
        raise CheckpointError(
            f"{container.file} holds {some(odd)} that are {' or '.join(sorted(strange))}; save the "
            "state_dict of the plain model again, best as safetensors"
        )
    raise CheckpointError(
        f"{container.file} holds quantised weights, {some(odd)} as {', '.join(sorted(set(odd.values())))}; "
        "give the checkpoint in float32, float16 or bfloat16"
    )


def check_present(stored: Mapping[str, str], container: Container) -> None:
    """Refuses an encoder without values, or with layers that none has.

    Args:
        stored: backbone name -> stored name.
        container: they lie in.

    Raises:
        CheckpointError: naming the tensors.
    """
    check_layers(stored, container.file)
    empty = [key for key in stored.values() if prod(container.shapes[key]) == 0]
    if empty:
        raise CheckpointError(
            f"{container.file} holds {some(empty)} without values: with DeepSpeed's ZeRO-3 each process "
            "saves its own part; gather them with zero_to_fp32.py, and give what it writes"
        )


def check_layers(names: Collection[str], where: object) -> None:
    """Refuses names of layers that no encoder has, before layers are counted.

    Args:
        names: of tensors.
        where: the file that they come from.

    Raises:
        CheckpointError: naming the first.
    """
    for name in names:
        for match in _LAYER.finditer(name):
            if len(match[1]) > len(str(MOST_LAYERS)) or int(match[1]) >= MOST_LAYERS:
                raise CheckpointError(
                    f"{where} names a layer {match[1][:20]} ({name[:80]}), and no encoder has more than "
                    f"{MOST_LAYERS}; fetch it again"
                )


def _odd(key: str, kind: str) -> bool:
    return kind not in _FLOATS and not (kind.startswith(("int", "uint")) and _WHOLE_NUMBERS.search(key))
