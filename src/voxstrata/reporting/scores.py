"""`metrics.json`, as a report reads it."""

from __future__ import annotations

from pydantic import Field

from voxstrata.reporting.files import Stored


class Score(Stored):
    """A metric in [0, 1] (error rates may pass 1, CCC may be negative) with its 95 % intervals.

    Of several seeds: their mean, and the value of each.
    """

    value: float
    iid: tuple[float, float] | None = None
    speaker: tuple[float, float] | None = None
    by_seed: tuple[float, ...] = ()


class EmotionScores(Stored):
    """Emotion part of `metrics.json`; confusion [C, C] counts, rows = reference."""

    clips: int | None = None
    speakers: int | None = None
    labels: tuple[str, ...]
    uar: Score | None = None
    macro_f1: Score | None = None
    precision: Score | None = None
    accuracy: Score | None = None
    recall: dict[str, float | None] = Field(default_factory=dict)
    support: dict[str, int] = Field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()


class ErrorKind(Stored):
    """Word errors of one kind: how many, and their rate over the reference words."""

    count: int
    rate: float


class TranscriptScores(Stored):
    """Transcript part of `metrics.json`."""

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


class DimensionScores(Stored):
    """Ratings part of `metrics.json`."""

    clips: int | None = None
    speakers: int | None = None
    ccc: Score | None = None
    ccc_arousal: Score | None = None
    ccc_valence: Score | None = None
    ccc_dominance: Score | None = None


class CalibrationScores(Stored):
    """Calibration part of `metrics.json`; `before` has the same without the temperature."""

    clips: int | None = None
    ece: Score
    brier: Score
    temperature: float | None = None
    before: CalibrationScores | None = None


class SplitScores(Stored):
    """Scores of one predictions file."""

    clips: int | None = None
    speakers: int | None = None
    emotion: EmotionScores | None = None
    transcript: TranscriptScores | None = None
    dimensions: DimensionScores | None = None
    classes: dict[str, EmotionScores] = Field(default_factory=dict)
    calibration: CalibrationScores | None = None
    unanswered: int = 0
    errors: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def tasks(self) -> dict[str, EmotionScores | TranscriptScores | DimensionScores]:
        """Those scored: `emotion`, `transcript`, `dimensions` and the fields of further classes."""
        known = {"emotion": self.emotion, "transcript": self.transcript, "dimensions": self.dimensions}
        return {name: found for name, found in {**known, **self.classes}.items() if found is not None}
