"""Answers in the formats of OpenAI's transcription API, with emotions beside the words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from voxstrata.errors import VoxstrataError
from voxstrata.inference.recognition import Recognition
from voxstrata.inference.subtitles import srt_lines, vtt_lines

#: Values of `response_format`.
FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
#: Those that need times.
TIMED = ("srt", "vtt", "verbose_json")
#: Values of `timestamp_granularities[]`.
GRANULARITIES = ("segment", "word")


def require_one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """A value of a form, if it is one of those allowed.

    Raises:
        VoxstrataError: if it is not.
    """
    if value not in allowed:
        raise VoxstrataError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    return value


def as_text(found: Recognition, kind: str) -> str:
    """An answer in a format that is no JSON."""
    lines: dict[str, Callable[[], Any]] = {
        "text": lambda: [found.transcript or ""],
        "srt": lambda: srt_lines(found),
        "vtt": lambda: vtt_lines(found),
    }
    return "\n".join(lines[kind]()) + "\n"


def as_json(found: Recognition) -> dict[str, Any]:
    """The words alone; the emotion beside them where the model gives one."""
    return {"text": found.transcript or "", **_emotion(found.as_dict())}


def verbose(found: Recognition, language: str | None, *, words: bool) -> dict[str, Any]:
    """Words, times and emotions.

    Args:
        found: the answer in segments.
        language: of the words, as far as it is known.
        words: whether each word stands there with its time.
    """
    whole = found.as_dict()
    segments = [segment.as_dict() for segment in found.segments]
    listed = [word for segment in segments for word in segment.pop("words", ())]
    return {
        "task": "transcribe",
        "language": language or "unknown",
        "duration": round(found.duration_s or 0.0, 3),
        "text": found.transcript or "",
        **_emotion(whole),
        "segments": [
            {"id": number, "text": segment.pop("transcript", ""), **segment}
            for number, segment in enumerate(segments)
        ],
        "summaries": [summary.as_dict() for summary in found.summaries],
        **({"words": listed} if words else {}),
    }


def _emotion(row: dict[str, Any]) -> dict[str, Any]:
    """What a row has beside words."""
    left_out = ("id", "path", "transcript", "duration", "segments", "summaries")
    return {name: value for name, value in row.items() if name not in left_out}
