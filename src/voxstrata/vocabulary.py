"""Character vocabulary of a CTC head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from voxstrata.errors import LabelError


@dataclass(frozen=True)
class Vocabulary:
    """Characters of a CTC head; index 0 is the blank.

    Args:
        characters: distinct characters, without the blank; of a published head any strings, "" for tokens
            that write nothing.

    >>> v = Vocabulary.of(["go on"])
    >>> v.encode("no go"), v.collapse([0, 4, 4, 0, 3, 3, 3])
    ([3, 4, 1, 2, 4], 'on')
    """

    characters: tuple[str, ...]
    blank = 0

    def __len__(self) -> int:
        return len(self.characters) + 1

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises:
            LabelError: if the text holds a character outside the vocabulary.
        """
        index = {character: i + 1 for i, character in enumerate(self.characters)}
        unknown = sorted({c for c in text if c not in index})
        if unknown:
            raise LabelError(
                f"text {text!r} holds {unknown}, outside the vocabulary {''.join(self.characters)!r}; "
                "normalise the text or build the vocabulary from it"
            )
        return [index[c] for c in text]

    def collapse(self, tokens: Sequence[int]) -> str:
        """Text of a frame-wise CTC path: repeats merged, blanks dropped."""
        out, previous = [], self.blank
        for token in tokens:
            if token not in (self.blank, previous):
                out.append(self.characters[token - 1])
            previous = token
        return "".join(out).strip()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """The characters that occur in the texts, sorted."""
        return cls(tuple(sorted(set().union(*map(set, texts)))))
