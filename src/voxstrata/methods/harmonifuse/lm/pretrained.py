"""Any pretrained causal language model, frozen, with low-rank adapters (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from voxstrata.errors import CheckpointError
from voxstrata.methods.harmonifuse.lm.language_model import LanguageModel, small_lm
from voxstrata.methods.harmonifuse.lm.tokenizers import CharacterTokenizer, PretrainedTokenizer, TextTokenizer
from voxstrata.methods.harmonifuse.options import HarmoniFuseOptions, LMOptions, StateNorm
from voxstrata.vocabulary import Vocabulary

#: What a config says of the logits behind the linear map -> values that leave them as they are.
_OUTPUT_SCALINGS = {
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "lm_head_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
}


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
    options: LMOptions, *, seed: int, norm: StateNorm = "model"
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
    assert options.pretrained is not None
    name = options.pretrained
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


def _add_adapters(model: PreTrainedModel, options: LMOptions) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise CheckpointError(
            "adapters of a pretrained language model need peft; install voxstrata[lm], or set rank to 0"
        ) from None
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.scale,
        lora_dropout=options.adapter_dropout,
        target_modules="all-linear",
        bias="none",
    )
    inject_adapter_in_model(config, model)


def build_lm(
    options: HarmoniFuseOptions, vocabulary: Vocabulary, *, seed: int
) -> tuple[LanguageModel, TextTokenizer]:
    """The language model of the options with its tokenizer.

    Args:
        options: their `lm` and the form of its states.
        vocabulary: characters of a model from scratch; a pretrained one brings its own tokens.
        seed: of all that starts at random.

    Raises:
        CheckpointError: if a pretrained model cannot be used.
    """
    if options.lm.pretrained is not None:
        return load_pretrained(options.lm, seed=seed, norm=options.state_norm)
    tokenizer = CharacterTokenizer(vocabulary)
    return small_lm(options.lm, tokenizer.size, seed=seed, norm=options.state_norm), tokenizer
