"""Any pretrained causal language model, frozen, with low-rank adapters (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel, StateNorm
from voxstrata.methods.harmonifuse.lm.tokenizers import PretrainedTokenizer

#: What a config says of the logits behind the linear map -> values that leave them as they are.
_OUTPUT_SCALINGS = {
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "lm_head_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
}


@dataclass(frozen=True)
class PretrainedLM:
    """A pretrained model and its adapters.

    Args:
        name: Hub id or folder of a causal language model with safetensors.
        rank: of the adapters of all its linear maps; 0: none, the model stays as it is.
        scale: the adapters' output is multiplied by scale / rank.
        dropout: before the adapters, in training.

    Raises:
        RecipeError: if the rank is negative.
    """

    name: str
    rank: int = 16
    scale: float = 32.0
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise RecipeError(f"the adapters' rank is {self.rank}; 0 or more is needed")


def load_tokenizer(name: str) -> PretrainedTokenizer:
    """The tokenizer of a pretrained model.

    Raises:
        CheckpointError: if there is none, or it has no end token.
    """
    try:
        return PretrainedTokenizer(AutoTokenizer.from_pretrained(name), name)
    except (OSError, ValueError, KeyError, ImportError) as fault:
        raise _unusable(name, fault) from None


def _unusable(name: str, fault: Exception) -> CheckpointError:
    reason = " ".join(str(fault).split())[:300]
    return CheckpointError(
        f"cannot load the language model {name!r}: {reason}; give the Hub id or folder of a causal "
        "language model with its tokenizer and safetensors"
    )


def load_pretrained(
    options: PretrainedLM, *, seed: int, norm: StateNorm = "model"
) -> tuple[LanguageModel, PretrainedTokenizer]:
    """The model in float32 with trainable adapters, the rest frozen; and its tokenizer.

    Args:
        options: which model, which adapters.
        seed: of the adapters' start.
        norm: see `LanguageModel`; "model" keeps the states in the form that its output map knows.

    Raises:
        CheckpointError: if there is no such model, it is no causal one, scales what its output map gives, has
            no final norm to use, its tokenizer has no end token or more tokens than the model, or peft is
            not installed.
    """
    name = options.name
    tokenizer = load_tokenizer(name)
    try:
        causal = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as fault:
        raise _unusable(name, fault) from None
    _require_plain_output(causal, name)
    output = causal.get_output_embeddings()
    if not isinstance(output, nn.Linear):
        raise CheckpointError(f"{name!r} has no linear map to its tokens; use another causal language model")
    if tokenizer.size > output.out_features:
        raise CheckpointError(
            f"the tokenizer of {name!r} has {tokenizer.size} tokens and the model {output.out_features}; "
            "they do not belong together"
        )
    causal.requires_grad_(False)
    model = causal.base_model
    if options.rank:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _add_adapters(model, options)
    return LanguageModel(model, norm=norm, output=output, trained=False), tokenizer


def _require_plain_output(causal: PreTrainedModel, name: str) -> None:
    """Refuses a model that changes what its linear map gives, since the map alone is used here."""
    config = causal.config.get_text_config()
    for key, neutral in _OUTPUT_SCALINGS.items():
        if (value := getattr(config, key, None)) not in neutral:
            raise CheckpointError(
                f"{name!r} has {key} {value} behind its linear map to tokens, which is not supported; use a "
                "causal language model without it, like Llama, Qwen or Mistral"
            )


def _add_adapters(model: PreTrainedModel, options: PretrainedLM) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise CheckpointError(
            "adapters of a pretrained language model need peft; install voxstrata[lm], or set rank to 0"
        ) from None
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.scale,
        lora_dropout=options.dropout,
        target_modules="all-linear",
        bias="none",
    )
    inject_adapter_in_model(config, model)
