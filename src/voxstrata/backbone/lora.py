"""LoRA as differences of full weights: adapters of peft, and loralib's factors inside a checkpoint.

Hu et al. 2021 (arXiv 2106.09685), equation 3: W + s B A, with s = alpha / r, or alpha / sqrt(r) with
rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from voxstrata.backbone.containers import Shape, some
from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError

# Not peft's merge, which builds the whole model: factors are read by their headers, a tensor at a time.
CONFIG = "adapter_config.json"
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>(?!bias$)[^.]+))??(?:\.weight)?$")
_OTHER_PART = re.compile(r"(^|\.)lora_")
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save\.[^.]+)(?=\.)")
#: What FSDP, activation checkpointing, torch.compile, data parallelism and DeepSpeed put into names.
_SHELL = r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|_forward_module|module)"
_SHELLS = re.compile(rf"(?:(?<=\.)|^){_SHELL}\.")
LEADING_SHELLS = re.compile(rf"(?:{_SHELL}\.)*")
#: A part that one's own class calls "model", where it stands inside an encoder.
_MODEL_INSIDE = re.compile(
    r"((?:^|\.)(?:encoder|decoder|feature_extractor|feature_projection)\.(?:[^.]+\.)*?)model\."
)
#: Settings of peft under which the difference is another than s B A, or the base is changed too.
_OTHER_FORMS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters"),
    *("trainable_token_indices", "alora_invocation_tokens", "arrow_config", "kasa_config"),
    *("monteclora_config", "velora_config", "megatron_config"),
)
#: An alpha beyond it is none.
_LARGEST_SCALE = 1e6
#: Names of modules, alternatives, classes of characters; nothing behind a group, and no counts.
_PLAIN_PATTERN = re.compile(r"(?:\((?:\?:)?|\)(?![*+?])|[\w.\-^$|\[\]*+?]|\\[.\-dw]){1,300}")
#: How often each may occur.
_MOST_IN_PATTERN = {r"[*+?]": 3, r"\(": 3, r"\|": 24}
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterOptions:
    """What adapter_config.json tells of LoRA factors, in peft's words.

    Args:
        alpha: scale of all modules; loralib's default is 1.
        alpha_pattern: pattern of a module's name -> its own alpha.
        rank_stabilized: alpha / sqrt(r) in place of alpha / r.
        transposed: weights stored beside the factors are [in, out] (`fan_in_fan_out`).
        base: the encoder that was adapted; None where it is not known.
        stated: whether there was such a file.
    """

    alpha: float = 1.0
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False
    transposed: bool = False
    base: str | None = None
    stated: bool = False

    def scale(self, module: str, rank: int) -> float:
        """The factor of B A in a module.

        Raises:
            CheckpointError: if a pattern is no plain one.
        """
        fits = (alpha for key, alpha in self.alpha_pattern.items() if module_fits(key, module))
        alpha = next(fits, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


@dataclass(frozen=True)
class LoRA:
    """Pairs of factors in a checkpoint, listed and not yet read.

    Args:
        factors: backbone name of a weight -> stored names of A [r, in] and B [out, r].
        shapes: backbone name -> shape of the difference.
        options: scale and orientation.
        read: reads a tensor by its stored name.
    """

    factors: Mapping[str, tuple[str, str]]
    shapes: Mapping[str, Shape]
    options: AdapterOptions
    read: Callable[[str], Tensor]

    def describe(self) -> str:
        """How many weights change, and at which scale, e.g. "LoRA on 22 weights, alpha 1 (...)"."""
        options = self.options
        how = " / sqrt(r)" if options.rank_stabilized else " / r"
        said = "" if options.stated else f", loralib's default; a {CONFIG} beside the file could give another"
        return f"LoRA on {len(self.factors)} weights, scaled by {options.alpha:g}{how}{said}"

    def difference(self, name: str) -> Tensor:
        """The product s B A for one weight, float32 [out, in] or [out, in, k], as a linear layer has it."""
        a, b, scale = self._pair(name)
        return torch.einsum("or,r...->o...", b, a) * scale

    def scaled_factors(self, name: str) -> tuple[Tensor, Tensor]:
        """The factors s B [out, r] and A [r, in] or [r, in, k] of one weight, float32."""
        a, b, scale = self._pair(name)
        return b * scale, a

    def _pair(self, name: str) -> tuple[Tensor, Tensor, float]:
        a, b = (self.read(key).float() for key in self.factors[name])
        module = unwrapped(self.factors[name][0].rpartition(".lora_A")[0]).removeprefix("base_model.model.")
        return a, b.flatten(1), self.options.scale(module, len(a))


def plain_name(key: str) -> str | None:
    """A stored name without what wrappers of modules, and LoRA's, add to it; None for a factor.

    >>> plain_name("base_model.model.encoder.layers.0.attention.q_proj.base_layer.weight")
    'base_model.model.encoder.layers.0.attention.q_proj.weight'
    >>> plain_name("module.encoder.layers.0._fsdp_wrapped_module.final_layer_norm.bias")
    'encoder.layers.0.final_layer_norm.bias'
    """
    return None if _FACTOR.match(key) else unwrapped(_WRAPPERS.sub("", key))


def unwrapped(key: str) -> str:
    """A name without the segments that wrappers of modules add."""
    key, more = _SHELLS.sub("", key), 1
    while more:
        key, more = _MODEL_INSIDE.subn(r"\1", key)
    return key


def factor_pairs(shapes: Mapping[str, Shape], file: Path) -> dict[str, tuple[str, str]]:
    """The LoRA factors of a file: name of the weight that they change -> stored names of A and B.

    Raises:
        CheckpointError: if a factor stands alone, there are several adapters, or parts of another method.
    """
    sides: dict[str, dict[str, str]] = {}
    adapters, other = set(), []
    for key in shapes:
        if match := _FACTOR.match(key):
            sides.setdefault(unwrapped(match["module"] + ".weight"), {})[match["side"]] = key
            adapters.add(match["adapter"])
        elif _OTHER_PART.search(key):
            other.append(key)
    if other:
        raise CheckpointError(
            f"{file} holds {some(other)} of a method beyond LoRA's A and B; merge it into its base with the "
            "toolkit that made it, and give the merged encoder"
        )
    if len(adapters) > 1:
        raise CheckpointError(f"{file} holds the adapters {sorted(map(str, adapters))}; keep one of them")
    if alone := [key for pair in sides.values() if len(pair) == 1 for key in pair.values()]:
        raise CheckpointError(f"{file} holds {some(alone)} without the other LoRA factor; fetch it again")
    return {name: (pair["A"], pair["B"]) for name, pair in sides.items()}


def difference_shape(a: Shape, b: Shape) -> Shape | None:
    """Shape of B A for A [r, in] or [r, in, k] and B [out, r] or [out, r, 1]; None if they do not fit."""
    fits = len(a) == len(b) and len(a) in (2, 3) and a[0] == b[1] and set(b[2:]) <= {1}
    return (b[0], *a[1:]) if fits else None


def read_options(file: Path, ranks: Iterable[int]) -> AdapterOptions:
    """What the adapter_config.json beside a file tells; loralib's own defaults where there is none.

    Args:
        file: that holds the factors.
        ranks: of its pairs.

    Raises:
        CheckpointError: if it tells of another method than plain LoRA, or of another rank.
    """
    path = file.parent / CONFIG
    if not path.is_file():
        return AdapterOptions()
    about = read_json_object(path, error=CheckpointError, advice="fetch it again")
    try:
        alpha_pattern = {key: _scale(value) for key, value in (about.get("alpha_pattern") or {}).items()}
        alpha = _scale(about["lora_alpha"])
        allowed_ranks = {_rank(rank) for rank in (about["r"], *(about.get("rank_pattern") or {}).values())}
        base = about.get("base_model_name_or_path")
        if not isinstance(base, str | None):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} has no r and lora_alpha as peft writes them; fetch it again") from None
    kind = about.get("peft_type", "LORA")
    start = about.get("init_lora_weights")
    forms = [name for name in _OTHER_FORMS if about.get(name)]
    forms += [f"init_lora_weights={start}"] * (start not in _PLAIN_STARTS)
    if kind != "LORA" or forms:
        raise CheckpointError(
            f"{path} tells of {', '.join(forms) or kind}, where the change is not the plain product of LoRA; "
            "merge it into its base with peft, and give the merged encoder"
        )
    for pattern in alpha_pattern:
        module_fits(pattern, "")
    if wrong := sorted(set(ranks) - allowed_ranks):
        raise CheckpointError(f"{path} tells of rank {sorted(allowed_ranks)}, {file.name} has {wrong[0]}")
    return AdapterOptions(
        alpha=alpha,
        alpha_pattern=alpha_pattern,
        rank_stabilized=bool(about.get("use_rslora")),
        transposed=bool(about.get("fan_in_fan_out")),
        base=base or None,
        stated=True,
    )


def module_fits(pattern: str, module: str) -> bool:
    """Whether an expression of peft names a module, from its first part on or from any other.

    An expression of a stranger can take longer than the sun has. What is taken has at most three repetitions
    and three groups, none of them repeated, so that its cost is bounded.

    Raises:
        CheckpointError: if it is another one, or none.
    """
    if not _PLAIN_PATTERN.fullmatch(pattern) or any(
        len(re.findall(kind, pattern)) > most for kind, most in _MOST_IN_PATTERN.items()
    ):
        raise CheckpointError(
            f"{CONFIG} has the pattern {pattern[:60]!r} in alpha_pattern, which is not followed here; name "
            "the modules themselves, or merge the adapter into its base with peft"
        )
    try:
        expression = re.compile(pattern)
    except re.error as fault:
        raise CheckpointError(
            f"{CONFIG} has the pattern {pattern[:60]!r} in alpha_pattern, which is none ({fault}); fetch it "
            "again"
        ) from None
    starts = (0, *(dot.end() for dot in re.finditer(r"\.", module)))
    return any(expression.fullmatch(module, start) for start in starts)


def _scale(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_SCALE:
        raise ValueError
    return float(value)


def _rank(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError
    return value
