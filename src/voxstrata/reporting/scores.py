"""`metrics.json`, as a report reads it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Score(BaseModel):
    """A metric in [0, 1] (error rates may pass 1, CCC may be negative) with its 95 % intervals.

    Of several seeds: their mean, and the value of each.
    """

    model_config = ConfigDict(frozen=True)
    value: float
    iid: tuple[float, float] | None = None
    speaker: tuple[float, float] | None = None
    by_seed: tuple[float, ...] = ()


class EmotionScores(BaseModel):
    """Emotion part of `metrics.json`; confusion [C, C] counts, rows = reference."""

    model_config = ConfigDict(frozen=True)
    clips: int | None = None
    speakers: int | None = None
    labels: tuple[str, ...]
    uar: Score | None = None
    macro_f1: Score | None = None
    precision: Score | None = None
    accuracy: Score | None = None
    recall: dict[str, float | None] = {}
    support: dict[str, int] = {}
    confusion: tuple[tuple[int, ...], ...] = ()


class ErrorKind(BaseModel):
    """Word errors of one kind: how many, and their rate over the reference words."""

    model_config = ConfigDict(frozen=True)
    count: int
    rate: float


class TranscriptScores(BaseModel):
    """Transcript part of `metrics.json`."""

    model_config = ConfigDict(frozen=True)
    clips: int | None = None
    speakers: int | None = None
    normalizer: str | None = None
    wer: Score | None = None
    cer: Score | None = None
    substitutions: ErrorKind | None = None
    deletions: ErrorKind | None = None
    insertions: ErrorKind | None = None
    words: int | None = None
    characters: int | None = None


class DimensionScores(BaseModel):
    """Ratings part of `metrics.json`."""

    model_config = ConfigDict(frozen=True)
    clips: int | None = None
    speakers: int | None = None
    ccc: Score | None = None
    ccc_arousal: Score | None = None
    ccc_valence: Score | None = None
    ccc_dominance: Score | None = None


class SplitScores(BaseModel):
    """Scores of one predictions file."""

    model_config = ConfigDict(frozen=True)
    clips: int | None = None
    speakers: int | None = None
    emotion: EmotionScores | None = None
    transcript: TranscriptScores | None = None
    dimensions: DimensionScores | None = None
    classes: dict[str, EmotionScores] = {}
    unanswered: int = 0
    errors: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def tasks(self) -> dict[str, EmotionScores | TranscriptScores | DimensionScores]:
        """Those scored: `emotion`, `transcript`, `dimensions` and the fields of further classes."""
        known = {"emotion": self.emotion, "transcript": self.transcript, "dimensions": self.dimensions}
        return {name: found for name, found in {**known, **self.classes}.items() if found is not None}
