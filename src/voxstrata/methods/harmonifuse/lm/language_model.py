"""A decoder-only language model as L states: embeddings in, the outputs of layers 1..L out."""

from __future__ import annotations

import inspect
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, LlamaConfig, LlamaModel, PreTrainedModel

from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.methods.harmonifuse.options import LMOptions, StateNorm

#: How transformers names the norm behind the last layer, in most decoder-only models.
_FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
#: How it names a table with a row for each position, where a model has one.
_POSITION_TABLES = ("wpe", "embed_positions")


class LanguageModel(nn.Module):
    """A causal transformer of transformers, without its output map.

    Args:
        model: the transformer; its last state is behind its final norm.
        norm: form of the states: "plain": zero mean and unit variance over the features, without parameters;
            "model": layers before the last go through the model's final norm too, which the last one has
            gone through; "none": as they are, and the last one normalised.
        output: the pretrained map from states to tokens; None for a model from scratch.
        trained: whether all of the model is trained (from scratch), or adapters alone.

    Raises:
        CheckpointError: if the model does not take embeddings and positions, or has no final norm to use.
        RecipeError: if the norm is unknown.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        norm: StateNorm = "plain",
        output: nn.Linear | None = None,
        trained: bool = True,
    ) -> None:
        super().__init__()
        if norm not in get_args(StateNorm):
            raise RecipeError(f"norm {norm!r} is unknown; allowed are {', '.join(get_args(StateNorm))}")
        lacking = {"inputs_embeds", "position_ids", "past_key_values"} - set(
            inspect.signature(model.forward).parameters
        )
        if lacking:
            raise CheckpointError(
                f"{type(model).__name__} takes no {', '.join(sorted(lacking))}; use a causal model like "
                "Llama, Qwen, Mistral or Gemma"
            )
        self.model = model
        self.norm = norm
        self.output = output
        self.trained = trained
        self.num_layers: int = model.config.num_hidden_layers
        self.size: int = model.config.hidden_size
        #: Positions that a row may have; None: no limit, as with rotary positions.
        self.most_positions = _most_positions(model)
        if norm == "model":
            self._final_norm()

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings: int64 [...] -> [..., D]."""
        embedded: Tensor = self.model.get_input_embeddings()(tokens)
        return embedded

    def forward(
        self,
        values: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        at: Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, ...]:
        """States of layers 1..L at the positions asked for.

        A position sees itself and what stands before it, so padding behind a row needs no mask.

        Args:
            values: [B, S, D] embeddings.
            mask: bool [B, S' + S], false in padding before a row, S' of them in the cache; None: no padding.
            positions: [B, S] of the values in their rows; None: counted from the first column.
            at: [B, P] columns; None: all.
            cache: keys and values of earlier columns; it takes up the new ones.

        Raises:
            CheckpointError: if a row has more positions than the model.
        """
        if self.most_positions is not None:
            read = 0 if cache is None else cache.get_seq_length()
            self._check_positions(read + values.shape[1] if positions is None else int(positions.max()) + 1)
        states = self.model(
            inputs_embeds=values,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            output_hidden_states=True,
        ).hidden_states[1:]
        if len(states) != self.num_layers:
            raise CheckpointError(
                f"{type(self.model).__name__} gave {len(states)} states for {self.num_layers} layers"
            )
        if at is not None:
            index = at.unsqueeze(-1).expand(-1, -1, self.size)
            states = [state.gather(1, index) for state in states]
        return self._normalized(tuple(states))

    def new_cache(self) -> Cache:
        """An empty cache of keys and values."""
        return DynamicCache(config=self.model.config)

    def most_tokens(self, limits: Tensor, lengths: Tensor) -> Tensor:
        """Limits [B] of the tokens that follow rows of these lengths [B], lowered to the positions left.

        Raises:
            CheckpointError: if no position is left behind a row.
        """
        if self.most_positions is None:
            return limits
        self._check_positions(int(lengths.max()) + 1)
        return torch.minimum(limits, self.most_positions - lengths)

    def _check_positions(self, needed: int) -> None:
        if self.most_positions is None or needed <= self.most_positions:
            return
        kind, name = type(self.model).__name__, self.model.config.name_or_path
        named = f"{name!r} ({kind})" if name else kind
        raise CheckpointError(
            f"the language model {named} has {self.most_positions} positions; "
            f"speech, prompt and text need {needed}: use shorter clips, a larger connector.stack, or another "
            "language model (with rotary positions, as Llama or Qwen, there is no such limit)"
        )

    def _normalized(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.norm == "none":
            return states
        if self.norm == "plain":
            return tuple(F.layer_norm(state, state.shape[-1:]) for state in states)
        norm = self._final_norm()
        return (*(norm(state) for state in states[:-1]), states[-1])

    def _final_norm(self) -> nn.Module:
        for name in _FINAL_NORMS:
            if isinstance(norm := getattr(self.model, name, None), nn.Module):
                return norm
        raise CheckpointError(
            f"{type(self.model).__name__} has no final norm under the names {', '.join(_FINAL_NORMS)}; "
            "use norm 'plain' or 'none' (in a recipe: layer_fusion.norm=plain)"
        )


def _most_positions(model: PreTrainedModel) -> int | None:
    """Rows of the model's table of positions, without those that it holds back; None: it has none."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _POSITION_TABLES and isinstance(module, nn.Embedding):
            return module.num_embeddings - int(getattr(module, "offset", 0))
    for name, buffer in model.named_buffers():
        # Sines and cosines of GPT-J and its like.
        if name.rpartition(".")[2] in _POSITION_TABLES:
            return len(buffer)
    return None


def small_lm(options: LMOptions, tokens: int, *, seed: int, norm: StateNorm = "plain") -> LanguageModel:
    """A Llama-type model with random weights, the same for the same seed.

    Args:
        options: its shape.
        tokens: size of its vocabulary.
        seed: of the weights.
        norm: see `LanguageModel`.
    """
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=options.size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        intermediate_size=options.feed_forward,
        attention_dropout=options.dropout,
        # Not among the tokens, where transformers would have its own choice be special.
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(LlamaModel(config), norm=norm)
