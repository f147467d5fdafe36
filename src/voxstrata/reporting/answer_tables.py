"""Tables of a run's answers: confident mistakes, transcripts beside their references, files that failed."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from voxstrata.predictions import Prediction


@dataclass(frozen=True)
class Mistake:
    """A wrong emotion: what was said instead, and how sure the model was (None without probabilities)."""

    id: str
    reference: str
    prediction: str
    probability: float | None


@dataclass(frozen=True)
class Word:
    """A word of a transcript, and whether it has no counterpart on the other side."""

    text: str
    differs: bool


@dataclass(frozen=True)
class TranscriptPair:
    """A transcript beside its reference, word by word."""

    id: str
    reference: tuple[Word, ...]
    transcript: tuple[Word, ...]


def confident_mistakes(predictions: Sequence[Prediction], most: int = 12) -> list[Mistake]:
    """Wrong emotions, those of the highest probability first (then by id)."""
    wrong = [
        Mistake(p.id, p.reference_emotion, p.emotion, (p.probabilities or {}).get(p.emotion))
        for p in predictions
        if p.emotion is not None and p.reference_emotion is not None and p.emotion != p.reference_emotion
    ]
    return sorted(wrong, key=lambda m: (1.0 if m.probability is None else -m.probability, m.id))[:most]


def transcript_sample(predictions: Sequence[Prediction], most: int = 10) -> list[TranscriptPair]:
    """Transcripts spread evenly over the clips in order of id, so that no one chose them."""
    answered = sorted((p for p in predictions if p.transcript is not None), key=lambda p: p.id)
    step = max(1, -(-len(answered) // most))
    return [_pair(p) for p in answered[::step]]


def _pair(prediction: Prediction) -> TranscriptPair:
    transcript = (prediction.transcript or "").split()
    if prediction.reference_transcript is None:
        return TranscriptPair(prediction.id, (), tuple(Word(word, False) for word in transcript))
    reference = prediction.reference_transcript.split()
    left, right = [False] * len(reference), [False] * len(transcript)
    matcher = SequenceMatcher(
        None, [_bare(w) for w in reference], [_bare(w) for w in transcript], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        left[block.a : block.a + block.size] = [True] * block.size
        right[block.b : block.b + block.size] = [True] * block.size
    return TranscriptPair(
        prediction.id,
        tuple(Word(word, not same) for word, same in zip(reference, left, strict=True)),
        tuple(Word(word, not same) for word, same in zip(transcript, right, strict=True)),
    )


def _bare(word: str) -> str:
    """A word without case and punctuation: what a reader takes for the same word."""
    return "".join(c for c in word.casefold() if unicodedata.category(c)[0] in "LNM") or word
