"""One spelling of transcripts in all corpora."""

from __future__ import annotations

import unicodedata

_APOSTROPHES = str.maketrans("’‘ʼ`´", "'''''")


def normalize_transcript(text: str) -> str | None:
    """Lower case; letters, digits and apostrophes only, words one blank apart; None if nothing is left.

    Combining marks stay with their letters, so that no script loses its vowels.

    >>> normalize_transcript("Don't — say the WORD “back”!")
    "don't say the word back"
    >>> normalize_transcript("...") is None
    True
    """
    text = unicodedata.normalize("NFC", text.translate(_APOSTROPHES)).lower()
    kept = "".join(c if c.isalnum() or c == "'" or unicodedata.category(c)[0] == "M" else " " for c in text)
    words = [word for word in kept.split() if word.strip("'")]
    return " ".join(words) or None
