"""Word and character error rates, after a named normalisation of the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from voxstrata.errors import VoxstrataError

Array = NDArray[np.float64]

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u00b4`", "'"))
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def unchanged(text: str) -> str:
    """The text as it stands, without space around it.

    >>> unchanged(" Go on, Ann! ")
    'Go on, Ann!'
    """
    return text.strip()


def basic(text: str) -> str:
    """Lower case; punctuation and symbols become spaces, but apostrophes inside words stay; single spaces.

    Typographic apostrophes become plain ones, and Unicode is brought to NFKC.

    >>> basic("'Well-known', she said: it's  £5.")
    "well known she said it's 5"
    """
    # apostrophes before NFKC, which takes the acute accent apart, and after, as it makes some
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES)
    text = unicodedata.normalize("NFKC", text.lower())
    text = _LOOSE_APOSTROPHE.sub(" ", text)
    return " ".join("".join(map(_spaced, text)).split())


def no_apostrophe(text: str) -> str:
    """As `basic`, and apostrophes are dropped: "it's" and "its" are one word.

    >>> no_apostrophe("It's")
    'its'
    """
    return basic(text).replace("'", "")


#: Name -> normaliser of references and transcripts alike.
NORMALIZERS: dict[str, Callable[[str], str]] = {
    "none": unchanged,
    "basic": basic,
    "no-apostrophe": no_apostrophe,
}


def normalizer_named(name: str) -> Callable[[str], str]:
    """The normaliser of a name, which may be followed by `without` and words.

    Those words are then dropped wherever they stand, of references and transcripts alike, so that the
    other ones are scored: of a carrier phrase the word that it carries.

    >>> normalizer_named("basic without say the word")("Say the word 'dog'.")
    'dog'

    Raises:
        VoxstrataError: if there is none of that name.
    """
    kind, without, words = name.partition(" without ")
    if kind not in NORMALIZERS:
        raise VoxstrataError(
            f"unknown normaliser {kind!r}; choose one of {', '.join(NORMALIZERS)}, "
            "or one of them and words to drop: 'basic without say the word'"
        )
    normal, dropped = NORMALIZERS[kind], set(words.split())
    if not without:
        return normal
    return lambda text: " ".join(word for word in normal(text).split() if word not in dropped)


def error_rows(references: Sequence[str], transcripts: Sequence[str | None], normalizer: str) -> Any:
    """Errors and lengths of every clip.

    Args:
        references: true words.
        transcripts: recognised words; None (no answer) counts as an empty transcript.
        normalizer: as `normalizer_named` takes it, applied to both sides.

    Returns:
        Sparse `[clips, 4]`: word errors, words, character errors, characters. Spaces are characters.

    Raises:
        VoxstrataError: if the normaliser is unknown.
    """
    normal = normalizer_named(normalizer)
    true = [normal(text) for text in references]
    heard = [normal(text or "") for text in transcripts]
    words = jiwer.process_words(true, heard)
    characters = jiwer.process_characters(true, heard)
    columns = [
        [_errors(chunks) for chunks in words.alignments],
        [len(sentence) for sentence in words.references],
        [_errors(chunks) for chunks in characters.alignments],
        [len(sentence) for sentence in characters.references],
    ]
    return csr_array(np.array(columns, dtype=np.float64).T)


def wer(counts: Array) -> Array:
    """Word error rate of a corpus: all errors over all reference words; above 1 where much is inserted.

    Args:
        counts: sums `[..., 4]` as in `error_rows`.

    Returns:
        `[...]`, NaN where the references hold no word.
    """
    return _rate(counts[..., 0], counts[..., 1])


def cer(counts: Array) -> Array:
    """Character error rate of a corpus.

    Args:
        counts: sums `[..., 4]` as in `error_rows`.

    Returns:
        `[...]`, NaN where the references hold no character.
    """
    return _rate(counts[..., 2], counts[..., 3])


#: Name in `metrics.json` -> function of summed errors and lengths.
MEASURES: dict[str, Callable[[Array], Array]] = {"wer": wer, "cer": cer}


def _errors(chunks: Sequence[jiwer.AlignmentChunk]) -> int:
    return sum(
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in chunks
        if chunk.type != "equal"
    )


def _rate(errors: Array, length: Array) -> Array:
    return np.divide(errors, length, out=np.full(np.shape(errors), np.nan), where=length > 0)


@cache
def _spaced(character: str) -> str:
    return " " if unicodedata.category(character)[0] in "PS" and character != "'" else character
