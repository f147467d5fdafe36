"""Recognised recordings as lines for people and as lines of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from voxstrata.inference.recognition import (
    Recognition,
    Segment,
    Shares,
    named_emotion,
    ratings_of,
    summary_line,
)
from voxstrata.labels import DIMENSIONS
from voxstrata.predictions import Prediction

#: Columns of the table before those of classes and ratings, and behind them.
_FIRST, _LAST = ("path", "emotion"), ("transcript", "note", "error")
#: Columns of a table with a row for each segment, behind the path.
_TIMED = ("start", "end", "channel", "speaker")
#: Of a segment so many classes are shown, the most probable ones.
_SHOWN = 2


def readable(found: Recognition) -> str:
    """A recording for people: its answers over all of it; in segments, these and the summaries below."""
    lines = [str(found.row.path), *answer_lines(found.row)]
    if found.summaries:
        lines += map(_segment_line, found.segments)
        lines += [f"  {summary_line(summary)}" for summary in found.summaries]
    return "\n".join(lines)


def answer_lines(row: Prediction) -> Iterator[str]:
    """Emotion, probabilities from high to low, ratings, classes, words, note."""
    if row.probabilities is not None:
        yield f"  {named_emotion(row)}  ({_ranked(row.probabilities)})"
    if ratings := ratings_of(row):
        yield "  " + ", ".join(f"{name} {value:.2f}" for name, value in ratings.items())
    for field, shares in (row.classes or {}).items():
        yield f"  {field}: {_ranked(shares)}"
    if row.transcript is not None:
        yield f'  "{row.transcript}"'
    if row.note is not None:
        yield f"  note: {row.note}"


def _segment_line(segment: Segment) -> str:
    parts = [f"  {clock(segment.start_s)} - {clock(segment.end_s)}"]
    if segment.channel is not None:
        parts.append(f"channel {segment.channel}")
    if segment.speaker is not None:
        parts.append(segment.speaker)
    if segment.probabilities is not None:
        parts.append(f"{named_emotion(segment)} ({_ranked(segment.probabilities, _SHOWN)})")
    parts += [f"{name} {value:.2f}" for name, value in (segment.ratings or {}).items()]
    parts += [f"{field}: {_ranked(shares, _SHOWN)}" for field, shares in (segment.classes or {}).items()]
    parts += [f'"{segment.transcript}"'] if segment.transcript else []
    parts += [f"note: {segment.note}"] if segment.note is not None else []
    return "  ".join(parts)


def _ranked(shares: Shares, most: int | None = None) -> str:
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.2f}" for name, share in ranked[:most])


def clock(seconds: float) -> str:
    """A time for people.

    >>> clock(3.456), clock(3723.0)
    ('0:00:03.46', '1:02:03.00')
    """
    hundredths = round(100 * seconds)
    return (
        f"{hundredths // 360_000}:{hundredths // 6000 % 60:02d}:"
        f"{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"
    )


def table_lines(
    found: Iterable[Recognition], *, timed: bool = False, columns: Sequence[str] | None = None
) -> Iterator[list[str]]:
    """Lines of CSV for each recording, the names of the columns first: what the first answer has, all have.

    Failed recordings wait for it; without any answer there are no columns of classes.

    Args:
        found: what was recognised.
        timed: a row for each segment, with its times; else one for each recording.
        columns: of a table that is there already; None: a new one.
    """
    first = first_columns(timed)
    waiting: list[list[Mapping[str, object]]] = []
    for one in found:
        rows = [*(_rows(one) if timed else [_cells(one.row)])]
        if columns is None:
            waiting.append(rows)
            if one.error is not None or (timed and not one.segments):
                continue
            numbers = (name for row in rows for name in row if name not in (*first, *_LAST))
            columns = [*first, *dict.fromkeys(numbers), *_LAST]
            yield [_csv(columns), *_lines(waiting[0], columns)]
            yield from (_lines(those, columns) for those in waiting[1:])
            continue
        yield _lines(rows, columns)
    if columns is None:
        columns = [*first, *_LAST]
        yield [_csv(columns), *_lines(waiting[0] if waiting else [], columns)]
        yield from (_lines(those, columns) for those in waiting[1:])


def first_columns(timed: bool) -> list[str]:
    """The columns that every table begins with."""
    return [_FIRST[0], *(_TIMED if timed else ()), *_FIRST[1:]]


def _rows(found: Recognition) -> Iterator[Mapping[str, object]]:
    """The cells of each segment; of a recording without any, those of itself."""
    if not found.segments:
        yield _cells(found.row)
    for part in found.segments:
        times = {"start": f"{part.start_s:.3f}", "end": f"{part.end_s:.3f}"}
        answers: dict[str, Any] = {**(part.ratings or {}), "classes": part.classes}
        answers |= {"transcript": part.transcript, "note": part.note, "unsure": part.unsure}
        row = Prediction("", found.row.path, part.speaker, part.emotion, part.probabilities, **answers)
        yield {**_cells(row), **times, "channel": part.channel, "speaker": part.speaker}


def _cells(row: Prediction) -> dict[str, object]:
    """Texts, probabilities, ratings and further classes of a row, by column, as far as it has them."""
    cells: dict[str, object] = {name: getattr(row, name) for name in (*_FIRST, *_LAST)}
    if row.unsure is not None:
        cells["unsure"] = "yes" if row.unsure else "no"
    cells |= {f"probability:{name}": share for name, share in (row.probabilities or {}).items()}
    cells |= {name: getattr(row, name) for name in DIMENSIONS}
    for field, shares in (row.classes or {}).items():
        cells |= {f"{field}:{name}": share for name, share in shares.items()}
    return {name: value for name, value in cells.items() if value is not None}


def _lines(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> list[str]:
    return [_csv([row.get(name) for name in columns]) for row in rows]


def _csv(cells: Iterable[object]) -> str:
    """A line of CSV without its end; a cell without a value is empty, and each cell is one line."""
    line = io.StringIO()
    texts = (" ".join(cell.splitlines()) if isinstance(cell, str) else cell for cell in cells)
    csv.writer(line, lineterminator="").writerow(texts)
    return line.getvalue()
