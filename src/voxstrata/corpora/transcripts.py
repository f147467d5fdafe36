"""One spelling of transcripts in all corpora."""

from __future__ import annotations

from voxstrata.evaluation.letters import letters, split_words


def normalize_transcript(text: str) -> str | None:
    """Lower case; letters, digits and apostrophes only, words one blank apart; None if nothing is left.

    Combining marks stay with their letters, so that no script loses its vowels; what is not seen (soft
    hyphens, zero-width spaces and joiners) drops and parts no word. Scoring reads the result as it reads
    the text: `recognition.basic` of either is the same.

    >>> normalize_transcript("Don't — say the WORD “back”!")
    "don't say the word back"
    >>> normalize_transcript("...") is None
    True
    """
    return " ".join(split_words(letters(text, "NFC"))) or None
