"""Text as tokens of a language model: characters for a small one, its own tokenizer for a pretrained one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from voxstrata.errors import CheckpointError, LabelError
from voxstrata.vocabulary import Vocabulary


class TextTokenizer(Protocol):
    """What a speech language model asks of a tokenizer.

    Task prompts are embeddings beside the language model's own, so no room is needed for them here.
    """

    @property
    def size(self) -> int:
        """Tokens, the end token among them."""

    @property
    def eos(self) -> int:
        """The token that ends a text."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without the end token."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without the end token."""


class CharacterTokenizer:
    """Characters; the index that is the blank of a CTC head ends the text here.

    Args:
        vocabulary: the characters.

    >>> tokenizer = CharacterTokenizer(Vocabulary.of(["go on"]))
    >>> tokenizer.encode("no go"), tokenizer.decode([3, 4]), tokenizer.eos
    ([3, 4, 1, 2, 4], 'no', 0)
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.eos = vocabulary.blank
        self.size = len(vocabulary)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text.

        Raises:
            LabelError: if the text holds a character outside the vocabulary.
        """
        return self.vocabulary.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without spaces at its ends."""
        return "".join(self.vocabulary.characters[token - 1] for token in tokens).strip()


class PretrainedTokenizer:
    """The tokenizer of a pretrained language model.

    Args:
        tokenizer: of transformers.
        name: of the model, for messages.

    Raises:
        CheckpointError: if the tokenizer has no end token.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        if tokenizer.eos_token_id is None:
            raise CheckpointError(
                f"the tokenizer of {name} has no end token (eos_token), so a transcript would never end; "
                "set one in its tokenizer_config.json, or choose another language model"
            )
        self.name = name
        self.eos = int(tokenizer.eos_token_id)
        self.size = len(tokenizer)
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, no special ones.

        Raises:
            LabelError: if the tokenizer does not know a part of the text.
        """
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown != self.eos and unknown in tokens:
            raise LabelError(
                f"text {text!r} holds what the tokenizer of {self.name} does not know; normalise the text"
            )
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without spaces at its ends."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()
