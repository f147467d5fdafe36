"""Reading the backbone out of a checkpoint of any supported layout, strictly.

Tensors are read one at a time, so that never more than one is held beside the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxstrata.backbone.containers import Container, Shape, open_container, some
from voxstrata.backbone.families.family import Family
from voxstrata.backbone.families.registry import recognize, wanted
from voxstrata.backbone.fingerprint import fingerprint
from voxstrata.backbone.finite import require_finite
from voxstrata.backbone.groups import layer_index
from voxstrata.backbone.layouts import Layout
from voxstrata.backbone.lora import (
    LEADING_SHELLS,
    LoRA,
    difference_shape,
    factor_pairs,
    plain_name,
    read_options,
    unwrapped,
)
from voxstrata.backbone.plain_values import check_plain, check_present, quantised
from voxstrata.errors import CheckpointError

#: How far values of at most 1 may lie apart for their rounding alone: that of bfloat16.
_ROUNDING = 2**-8
_SHORT = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are listed, not yet read.

    Args:
        container: file, and how to read a tensor of it.
        family: of the encoder.
        layout: name of the layout that was recognised.
        prefix: what stands before the backbone's own names, e.g. "wavlm.".
        shapes: backbone name -> shape, of the tensors that are stored whole.
        stored: backbone name -> stored name.
        left_out: stored name outside the backbone -> what it is, e.g. "CTC head".
        lora: factors of differences from a base; None for a checkpoint without.
        partial: it is an adapter: what it does not hold is the base's.
    """

    container: Container
    family: Family
    layout: str
    prefix: str
    shapes: Mapping[str, Shape]
    stored: Mapping[str, str]
    left_out: Mapping[str, str]
    lora: LoRA | None = None
    partial: bool = False

    @property
    def path(self) -> Path:
        """The file that holds (or indexes) the tensors."""
        return self.container.file

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the file tells beside its tensors, e.g. "cfg"."""
        return self.container.settings

    @property
    def num_layers(self) -> int:
        """Transformer layers; of an adapter, up to the last one that it changes."""
        return max(map(layer_index, self.all_shapes()))

    def all_shapes(self) -> dict[str, Shape]:
        """Backbone name -> shape of all that is stored, whole or as a difference."""
        return {**(self.lora.shapes if self.lora else {}), **self.shapes}

    def tensor(self, name: str, base: Tensor | None = None) -> Tensor:
        """One tensor by its backbone name; floating-point ones as a float32 copy on the CPU.

        Args:
            name: in the backbone.
            base: the same tensor of the encoder that was fine-tuned; needed with LoRA.
        """
        if name in self.stored and (self.lora is None or name not in self.lora.factors):
            return self._whole(name)
        if base is None:
            raise CheckpointError(f"{self.path} changes a base by LoRA; give the base that it was made on")
        return base.float().cpu() + self.difference(name, base)

    def difference(self, name: str, base: Tensor, rounded: set[str] | None = None) -> Tensor:
        """What fine-tuning changed in one tensor, float32 on the CPU.

        A weight that is stored beside its LoRA factors may hold their product already (loralib merges them
        in eval mode). Then it differs from the base along that product, and the product is not added again.

        Of a tensor that no training changes it is zero. So it is where a weight is the base's own but for
        the rounding to the number format that it is stored in: that is no learning.

        Args:
            name: in the backbone.
            base: the tensor of the encoder that was fine-tuned.
            rounded: receives the number format by whose rounding alone values differ from the base's.
        """
        base = base.float().cpu()
        if name in self.family.fixed:
            return torch.zeros_like(base)
        whole = self._whole(name) if name in self.stored else None
        if self.lora is None or name not in self.lora.factors:
            if whole is None:
                return torch.zeros_like(base)
            same = self._rounded_alone(name, whole, base, rounded)
            whole.sub_(base)
            return whole if same is None else whole.masked_fill_(same, 0)
        product = self._product(name)
        whole = None if whole is None else whole.sub_(base)
        if whole is None or _along(whole, product):
            return product if whole is None else whole
        return whole.add_(product)

    def fine_tuned(self, name: str, base: Tensor, rounded: set[str] | None = None) -> Tensor:
        """One tensor after fine-tuning, to the last bit: float32 on the CPU, or float64 where it takes that.

        Less the base it is `difference`: where that is zero it is the base's own.

        Args:
            name: in the backbone.
            base: the tensor of the encoder that was fine-tuned, on the CPU.
            rounded: see `difference`.
        """
        exact = torch.promote_types(base.dtype, torch.float32)
        if self.lora is not None and name in self.lora.factors:
            return base.double() + self.difference(name, base)
        if name in self.family.fixed or name not in self.stored:
            return base.to(exact)
        if self.container.types[self.stored[name]] == "float64":
            exact = torch.float64
        base, whole = base.to(exact), self._whole(name, exact)
        same = self._rounded_alone(name, whole, base, rounded)
        return whole if same is None else torch.where(same, base, whole)

    def fingerprint(self) -> str:
        """Identity of what it holds of a backbone, on whatever base: whole tensors, and the products of LoRA.

        Of a checkpoint without LoRA it is that of the encoder's weights.
        """
        held = {name: self._whole(name) for name in self.stored}
        if self.lora is not None:
            held |= {f"{name} (LoRA)": self._product(name) for name in self.lora.factors}
        return fingerprint(held)

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Refuses a checkpoint that does not hold exactly a model's tensors.

        Only what the family calls optional may be absent or superfluous: outside pre-training,
        `masked_spec_embed` has no effect. A tensor that no training changes may have another number of rows,
        and is not read then. An adapter may lack all that it does not change.

        Args:
            expected: the model's tensors by name.

        Raises:
            CheckpointError: naming the number of layers, or the missing, superfluous or misshapen tensors.
        """
        layers, found = max(map(layer_index, expected)), self.all_shapes()
        if self.num_layers != layers and not (self.partial and self.num_layers < layers):
            raise CheckpointError(
                f"{self.path} has {self.num_layers} transformer layers, but the model has {layers}; "
                "choose the checkpoint and the model of one architecture and size"
            )
        missing = [name for name in expected if name not in self.shapes and name not in self.family.optional]
        if missing and not self.partial:
            raise CheckpointError(
                f"{self.path} lacks {some(missing)} of the model; was it saved in part, or from another "
                "architecture?"
            )
        extra = [name for name in found if name not in expected and name not in self.family.optional]
        if extra:
            raise CheckpointError(
                f"{self.path} holds {some(extra)} that the model has not; it is another architecture or size"
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        parts = [self.shapes, self.lora.shapes if self.lora else {}]
        wrong = [
            f"{name} {shape} for {shapes[name]}"
            for part in parts
            for name, shape in part.items()
            if name in shapes and shape != shapes[name] and not self._other_rows(name, shapes[name])
        ]
        if wrong:
            raise CheckpointError(
                f"{self.path} has other shapes than the model: {some(wrong)}; it is another size"
            )

    def holds(self, name: str, shape: Shape) -> bool:
        """Whether a tensor is stored whole, in the shape that a model has."""
        return name in self.stored and self.shapes[name] == tuple(shape)

    def agrees(self, name: str, table: Tensor) -> bool:
        """Whether a stored tensor has the rows of another as far as both reach, to rounding.

        Args:
            name: in the backbone.
            table: values of at most 1; any number of rows.
        """
        stored, table = self._whole(name), table.float().cpu()
        rows = min(len(stored), len(table))
        return torch.allclose(stored[:rows], table[:rows], atol=_ROUNDING)

    def inner_name(self, key: str) -> str:
        """A stored name behind the prefix, and without what wrappers of modules add to it."""
        return unwrapped(key).removeprefix(unwrapped(self.prefix))

    def _rounded_alone(
        self, name: str, whole: Tensor, base: Tensor, rounded: set[str] | None
    ) -> Tensor | None:
        """Where a tensor differs from the base's by rounding alone; None: nowhere."""
        stated = self.container.types[self.stored[name]]
        # Also what was stored so once, and is in float32 by now.
        formats = [stated] if stated in _SHORT else [form for form in _SHORT if _holds(form, whole)]
        if not formats:
            return None
        short = base.to(_SHORT[formats[0]]).to(base.dtype)
        same = (whole == short) & (short != base)
        if not bool(same.any()):
            return None
        if rounded is not None:
            rounded.add(formats[0])
        return same

    def _product(self, name: str) -> Tensor:
        assert self.lora is not None
        product = self.lora.difference(name)
        require_finite([(f"{name} (LoRA)", product)], self.path)
        return product

    def _other_rows(self, name: str, shape: Shape) -> bool:
        return name in self.family.fixed and self.shapes.get(name, shape)[1:] == shape[1:]

    def _whole(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        tensor = self.container.read(self.stored[name])
        if self.lora is not None and self.lora.options.transposed and name in self.lora.factors:
            tensor = tensor.T
        tensor = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        require_finite([(self.stored[name], tensor)], self.path)
        return tensor


def open_checkpoint(path: Path, family: Family | None = None, *, decoder: bool = False) -> Checkpoint:
    """Lists the tensors of a checkpoint.

    Args:
        path: a file (.safetensors, .safetensors.index.json, .bin, .pt, .ckpt), or a folder with one.
        family: of the encoder that it should be of, where that is known: an adapter may not tell.
        decoder: whether a decoder is listed beside the encoder, where the family has one.

    Raises:
        CheckpointError: if it cannot be read, or holds no speech encoder in a known layout.
    """
    container = open_container(path, wanted())
    pairs = factor_pairs(container.shapes, container.file)
    plain = {key: name for key in container.shapes if (name := plain_name(key)) is not None}
    try:
        family, layout, prefix = recognize([*plain.values()], container, adapted=[*pairs], family=family)
    except CheckpointError:
        check_plain(filter(quantised, container.shapes), container)
        raise
    stored: dict[str, str] = {}
    left_out: dict[str, str] = {}
    parts = (*family.parts, *family.decoder_parts) if decoder else family.parts
    for key, plain_key in plain.items():
        name = _backbone_name(plain_key, prefix, layout, parts)
        if name is None and decoder:
            # In a whole model it stands outside the part that the prefix names.
            name = next((tied for tied in family.tied if f".{plain_key}".endswith(f".{tied}")), None)
        if name is None or ".original_module." in name:
            left_out[key] = layout.reason(key)
        elif name in stored:
            raise CheckpointError(
                f"{container.file} holds {name} twice, as {stored[name]} and as {key}; remove one"
            )
        else:
            stored[name] = key
    check_plain(stored.values(), container)
    check_present(stored, container)
    lora, outside = _lora(pairs, prefix, layout, parts, container)
    left_out |= outside | {name: layout.reason(name) for name in container.beside}
    flipped = lora.factors if lora and lora.options.transposed else {}
    shapes = {name: container.shapes[key] for name, key in stored.items()}
    return Checkpoint(
        container=container,
        family=family,
        layout=layout.name,
        prefix=_shells(stored.values()) + prefix,
        shapes={name: shape[::-1] if name in flipped else shape for name, shape in shapes.items()},
        stored=stored,
        left_out=left_out,
        lora=lora,
        partial=lora is not None and not any(name in stored for name in lora.factors),
    )


def _shells(keys: Iterable[str]) -> str:
    """What wrappers of modules put before all names."""
    match = LEADING_SHELLS.match(next(iter(keys), ""))
    return match[0] if match else ""


def _backbone_name(key: str, prefix: str, layout: Layout, parts: tuple[str, ...]) -> str | None:
    if not key.startswith(prefix):
        return None
    name = layout.canonical(key.removeprefix(prefix))
    return name if name.startswith(parts) else None


def _lora(
    pairs: Mapping[str, tuple[str, str]],
    prefix: str,
    layout: Layout,
    parts: tuple[str, ...],
    container: Container,
) -> tuple[LoRA | None, dict[str, str]]:
    """The backbone's LoRA factors, and those of heads, which are left out."""
    factors: dict[str, tuple[str, str]] = {}
    shapes: dict[str, Shape] = {}
    left_out: dict[str, str] = {}
    for key, (a, b) in pairs.items():
        name = _backbone_name(key, prefix, layout, parts)
        if name is None:
            left_out |= {factor: layout.reason(factor) for factor in (a, b)}
            continue
        shape = difference_shape(container.shapes[a], container.shapes[b])
        if shape is None:
            raise CheckpointError(
                f"{container.file} holds LoRA factors of shapes {container.shapes[a]} and "
                f"{container.shapes[b]} for {name}, which make no product; merge it into its base first"
            )
        factors[name], shapes[name] = (a, b), shape
    if not factors:
        return None, left_out
    options = read_options(container.file, [container.shapes[a][0] for a, _ in factors.values()])
    return LoRA(factors, shapes, options, container.read), left_out


def _holds(form: str, values: Tensor) -> bool:
    """Whether a number format holds all of these values."""
    parts = (values.flatten()[:256], values)
    return all(torch.equal(part.to(_SHORT[form]).to(part.dtype), part) for part in parts)


def _along(whole: Tensor, product: Tensor) -> bool:
    """Whether a difference points to where a product points; cosine above 1/2, which noise does not reach."""
    scale = float(whole.norm() * product.norm())
    return scale > 0 and float((whole * product).sum()) / scale > 0.5
