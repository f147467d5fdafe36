"""Word and character error rates, after a named normalisation of the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from voxstrata.errors import VoxstrataError
from voxstrata.evaluation.letters import letters, split_words, visible
from voxstrata.evaluation.spelled import spaced_capitals, spelled_digits

Array = NDArray[np.float64]
Scored = NDArray[np.bool_]

_WITHOUT = re.compile(r"(.*?) without((?: .*)?)", re.DOTALL)
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def unchanged(text: str) -> str:
    """The text as it stands, without space around it.

    >>> unchanged(" Go on, Ann! ")
    'Go on, Ann!'
    """
    return text.strip()


def basic(text: str) -> str:
    """Lower case; letters and digits only, but apostrophes inside words stay; single spaces.

    As transcripts of corpora (`letters`), with Unicode brought to NFKC.

    >>> basic("'Well-known', she said: it's  £5.")
    "well known she said it's 5"
    """
    return " ".join(split_words(_LOOSE_APOSTROPHE.sub(" ", letters(text, "NFKC"))))


def no_apostrophe(text: str) -> str:
    """As `basic`, and apostrophes are dropped: "it's" and "its" are one word.

    >>> no_apostrophe("It's")
    'its'
    """
    return basic(text).replace("'", "")


def spelled(text: str) -> str:
    """As `basic`, with spelled words letter by letter and numbers digit by digit, however they are written.

    >>> spelled("Erase PQY-598"), spelled("erase p q y five ninety eight")
    ('erase p q y 5 9 8', 'erase p q y 5 9 8')
    """
    return spelled_digits(basic(spaced_capitals(visible(text))))


#: Name -> normaliser of references and transcripts alike.
NORMALIZERS: dict[str, Callable[[str], str]] = {
    "none": unchanged,
    "basic": basic,
    "no-apostrophe": no_apostrophe,
    "spelled": spelled,
}


@dataclass(frozen=True)
class Normalizer:
    """How texts are brought to one form, and which words of a reference are not scored.

    Args:
        form: of references and transcripts alike.
        unscored: words of a reference whose errors do not count, such as those of a carrier phrase.
    """

    form: Callable[[str], str]
    unscored: frozenset[str] = frozenset()

    def __call__(self, text: str) -> str:
        """The text in its form."""
        return self.form(text)

    def scored(self, words: Sequence[str]) -> Scored:
        """Of each word of a reference, whether its errors count; [words]."""
        return np.array([word not in self.unscored for word in words], dtype=bool)

    def scored_characters(self, characters: Sequence[str]) -> Scored:
        """Of each character of a reference; a space goes with the word before it. [characters]."""
        words = re.findall(r"\S+\s*|\s+", "".join(characters))
        return np.repeat(self.scored([word.strip() for word in words]), [len(word) for word in words])


def normalizer_named(name: str) -> Normalizer:
    """The normaliser of a name, which may be followed by `without` and words.

    Of a reference those words, in whichever spelling the normaliser brings to theirs, are not scored: of a
    carrier phrase only the word that it carries. A transcript is aligned with the whole reference, so that a
    carrier phrase that is heard wrong costs nothing.

    >>> normalizer_named("basic without say the word").scored(["say", "the", "word", "dog"]).tolist()
    [False, False, False, True]

    Raises:
        VoxstrataError: if there is none of that name, or no word follows `without`, or one of which the
            normaliser leaves nothing.
    """
    parts = _WITHOUT.fullmatch(name)
    kind = parts[1] if parts else name
    if kind not in NORMALIZERS:
        raise VoxstrataError(
            f"unknown normaliser {kind!r}; choose one of {', '.join(NORMALIZERS)}, "
            "or one of them and words that are not scored: 'basic without say the word'"
        )
    form = NORMALIZERS[kind]
    if parts is None:
        return Normalizer(form)
    words = {word: form(word).split() for word in parts[2].split()}
    if not words:
        raise VoxstrataError(
            f"normaliser {name!r} has no words after 'without'; give at least one, "
            f"as in '{kind} without say the word', or {kind!r} alone to score all"
        )
    if lost := [word for word, left in words.items() if not left]:
        raise VoxstrataError(
            f"normaliser {name!r}: {kind!r} leaves nothing of {', '.join(map(repr, lost))}; "
            "after 'without' only words with letters or digits are allowed; take the others out"
        )
    return Normalizer(form, frozenset(word for left in words.values() for word in left))


def error_rows(references: Sequence[str], transcripts: Sequence[str | None], normalizer: str) -> Any:
    """Errors and lengths of every clip.

    Args:
        references: true words.
        transcripts: recognised words; None (no answer) counts as an empty transcript.
        normalizer: as `normalizer_named` takes it, applied to both sides. What is inserted counts where the
            reference word before it is scored, or the first word if there is none.

    Returns:
        Sparse `[clips, 4]`: word errors, words, character errors, characters. Spaces are characters.

    Raises:
        VoxstrataError: if the normaliser is unknown.
    """
    normal = normalizer_named(normalizer)
    true = [normal(text) for text in references]
    heard = [normal(text or "") for text in transcripts]
    words, characters = jiwer.process_words(true, heard), jiwer.process_characters(true, heard)
    of_words = [normal.scored(reference) for reference in words.references]
    of_characters = [normal.scored_characters(reference) for reference in characters.references]
    columns = [
        [_errors(chunks, scored) for chunks, scored in zip(words.alignments, of_words, strict=True)],
        [scored.sum() for scored in of_words],
        [
            _errors(chunks, scored)
            for chunks, scored in zip(characters.alignments, of_characters, strict=True)
        ],
        [scored.sum() for scored in of_characters],
    ]
    return csr_array(np.array(columns, dtype=np.float64).T)


@dataclass(frozen=True)
class WordErrors:
    """Word errors of a corpus by kind; their sum over `words` is the word error rate.

    Args:
        substitutions: reference words for which another was heard.
        deletions: reference words for which none was heard.
        insertions: words heard where the reference has none.
        words: in the references, at least one.
    """

    substitutions: int
    deletions: int
    insertions: int
    words: int

    def as_dict(self) -> dict[str, dict[str, float]]:
        """For JSON: of each kind the count and the rate over the reference words."""
        return {name: {"count": count, "rate": count / self.words} for name, count in self.by_kind.items()}

    @property
    def by_kind(self) -> dict[str, int]:
        """Kind -> count."""
        return {
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
        }


def word_errors(references: Sequence[str], transcripts: Sequence[str | None], normalizer: str) -> WordErrors:
    """Word errors of all clips by kind, in an alignment with the fewest errors.

    Args:
        references: true words.
        transcripts: recognised words; None (no answer) counts as an empty transcript.
        normalizer: as in `error_rows`, whose word errors are these.
    """
    normal = normalizer_named(normalizer)
    found = jiwer.process_words(
        [normal(text) for text in references], [normal(text or "") for text in transcripts]
    )
    scored = [normal.scored(reference) for reference in found.references]
    kinds = [_kinds(chunks, words) for chunks, words in zip(found.alignments, scored, strict=True)]
    substitutions, deletions, insertions = map(sum, zip(*kinds, strict=True))
    return WordErrors(substitutions, deletions, insertions, int(sum(words.sum() for words in scored)))


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


def _errors(chunks: Sequence[jiwer.AlignmentChunk], scored: Scored) -> int:
    """Errors at what is scored of a reference."""
    return sum(_kinds(chunks, scored))


def _kinds(chunks: Sequence[jiwer.AlignmentChunk], scored: Scored) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions at what is scored of a reference."""
    counts = dict.fromkeys(("substitute", "delete", "insert"), 0)
    for chunk in chunks:
        if chunk.type == "insert":
            before = max(chunk.ref_start_idx - 1, 0)
            counted = (chunk.hyp_end_idx - chunk.hyp_start_idx) * bool(scored[before : before + 1].all())
            counts["insert"] += counted
        elif chunk.type != "equal":
            counts[chunk.type] += int(scored[chunk.ref_start_idx : chunk.ref_end_idx].sum())
    return counts["substitute"], counts["delete"], counts["insert"]


def _rate(errors: Array, length: Array) -> Array:
    rate: Array = np.divide(errors, length, out=np.full(np.shape(errors), np.nan), where=length > 0)
    return rate
