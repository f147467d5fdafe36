"""What rows say beside the answers: notes on a recording, and why there is no answer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE, Remark, shown
from voxstrata.errors import VoxstrataError
from voxstrata.inference.recognition import Segment
from voxstrata.inference.scan import frame_levels
from voxstrata.inference.speech import hardly_varies
from voxstrata.inference.timeline import MUSIC, SHORT_S, short_remark
from voxstrata.labels import is_one_line
from voxstrata.predictions import Prediction


def asked_only(row: Prediction, asked: Collection[str]) -> Prediction:
    """A row that failed, without references to what the other rows are not asked for."""
    values = row.as_dict()
    odd = [name for name in values if asked and name.startswith("reference_") and name not in asked]
    nothing: dict[str, Any] = dict.fromkeys(odd)
    return replace(row, **nothing)


def noted(row: Prediction, remarks: Iterable[Remark | str]) -> Prediction:
    """The row with remarks in its note, behind those that it has."""
    notes = [*([row.note] if row.note else []), *map(str, remarks)]
    return replace(row, note="; ".join(notes)) if notes else row


def remarks_on_clip(mono: NDArray[np.float32]) -> list[Remark]:
    """What one should know of a recording that is answered as one clip: too short, or little like speech.

    Args:
        mono: [N] at 16 kHz.
    """
    length_s = len(mono) / SAMPLE_RATE
    if length_s < SHORT_S:
        return [short_remark(length_s)]
    return [MUSIC] if hardly_varies(frame_levels(mono), 0.0, length_s) else []


def remarks_on_segments(segments: Sequence[Segment]) -> list[Remark]:
    """What is true of more than half of the seconds."""
    music_s = sum(part.duration_s for part in segments if part.note == str(MUSIC))
    return [MUSIC] if 2 * music_s > sum(part.duration_s for part in segments) else []


def printable(text: str) -> str:
    """Text that UTF-8 can hold, in one line: what a file's name has of other bytes is escaped."""
    if not is_one_line(text):
        text = shown(Path(text))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def reason(fault: Exception) -> str:
    """Why a recording has no answer, in one line; torch writes its stack below the first."""
    line = printable(next((line.strip() for line in str(fault).splitlines() if line.strip()), ""))
    if isinstance(fault, VoxstrataError):
        return line
    if isinstance(fault, MemoryError) or re.search(r"allocate memory|out of memory", line, re.IGNORECASE):
        return "too long for the memory there is; cut it into shorter recordings, or use a larger machine"
    return f"cannot be recognised ({type(fault).__name__}: {line}); leave the recording out or mend it"
