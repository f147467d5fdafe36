"""Answers as HTML: words in the colours of their emotions over the waveform, bars, tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import numpy as np
import soundfile
from numpy.typing import NDArray

from voxstrata.audio import SAMPLE_RATE
from voxstrata.inference.recognition import Recognition, Segment, summary_line
from voxstrata.inference.words import Word
from voxstrata.serving.about import Table
from voxstrata.serving.answers import COLUMNS, Answer

#: Emotion -> colour, dark enough for white text; other classes take the next of `_OTHERS`.
_COLOURS = {
    "anger": "#b3261e", "happiness": "#9a6700", "sadness": "#2f5fae", "neutral": "#5f6672",
    "fear": "#7b3fa0", "disgust": "#4d7018", "surprise": "#b3478b", "calm": "#1f7a78",
    "contempt": "#7a5230",
}  # fmt: skip
_OTHERS = ("#9a6700", "#0b7285", "#a0522d", "#3b6e3b", "#5b4fc2", "#8a3b5c")
_PLAIN = "#5f6672"
#: Pixels of a second and of a letter on the narrowest timeline, and the gap between two words.
_SECOND, _LETTER, _GAP = 105.0, 8.2, 12.0
#: Lanes of words below the waveform.
_LANES = 3
#: Words stand below the waveform of recordings up to so many seconds; longer ones have a list.
_SHORT_S = 45.0
#: Rows of the list of segments.
_ROWS = 300
_HEIGHT = 72


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each class, the same for the same classes."""
    others = iter(_OTHERS * 20)
    return {name: _COLOURS.get(name.lower()) or next(others, _PLAIN) for name in sorted(names)}


def answer_html(answer: Answer) -> str:
    """An answer: the emotion and the words, the timeline, bars, and what was noted."""
    found = answer.found
    colours = colours_of(found.probabilities or {})
    parts = [
        '<div class="vx" id="vx-answer">',
        _headline(found, colours),
        _timeline(answer, colours),
        _player(answer.clip),
        _bars(found.probabilities, colours),
        _segments(found, colours),
        _notes(found),
        "</div>",
    ]
    return "".join(parts)


def scaled_html(scale: float, before: Recognition, after: Recognition, *, words_follow: bool) -> str:
    """What the clip is to the model, and at another scale."""
    colours = colours_of({**(before.probabilities or {}), **(after.probabilities or {})})
    old, new = (before.transcript or "").split(), (after.transcript or "").split()
    note = (
        ""
        if words_follow
        else '<p class="vx-note">The words come from another model, which the slider does not change.</p>'
    )
    return (
        '<div class="vx" id="vx-scaled"><div class="vx-two">'
        + _column("The model (1.00)", before, colours, _words(old, new))
        + _column(f"At {scale:.2f}", after, colours, _words(new, old))
        + f"</div>{note}</div>"
    )


def table_html(tables: Sequence[Table], layer_weights: Sequence[float]) -> str:
    """Coefficients of each layer and vector, shaded; weights of the layers beside them."""
    return '<div class="vx">' + "".join(_table(table, layer_weights) for table in tables) + "</div>"


def _table(table: Table, layer_weights: Sequence[float]) -> str:
    most = max((abs(value) for row in table.rows for value in row), default=1.0) or 1.0
    weights = [None, *layer_weights] if len(layer_weights) == len(table.rows) - 1 else None
    heads = "".join(f"<th>{escape(name)}</th>" for name in table.vectors)
    heads += "<th>weight of the layer</th>" if weights else ""
    rows = []
    for layer, row in enumerate(table.rows):
        cells = "".join(
            f'<td style="background:rgba(31,122,120,{0.55 * abs(value) / most:.2f})">{value:.2f}</td>'
            for value in row
        )
        if weights:
            weight = weights[layer]
            cells += f"<td>{'' if weight is None else f'{weight:.2f}'}</td>"
        name = "before the layers" if layer == 0 else f"layer {layer}"
        rows.append(f"<tr><th>{name}</th>{cells}</tr>")
    title = f"<p>For {escape(table.title)}:</p>" if table.title else ""
    return f'{title}<table class="vx-table"><tr><th></th>{heads}</tr>{"".join(rows)}</table>'


def _headline(found: Recognition, colours: Mapping[str, str]) -> str:
    chip = ""
    if found.emotion is not None:
        share = (found.probabilities or {}).get(found.emotion, 0.0)
        chip = (
            f'<span class="vx-chip" id="vx-emotion" style="background:{colours.get(found.emotion, _PLAIN)}">'
            f"{escape(found.emotion)} {100 * share:.0f} %</span>"
        )
    words = escape(found.transcript) if found.transcript else ""
    if found.transcript == "":
        words = "(no words)"
    return f'<div class="vx-head">{chip}<span class="vx-words" id="vx-words">{words}</span></div>'


def _timeline(answer: Answer, colours: Mapping[str, str]) -> str:
    """The waveform in the colours of its segments; the words of short recordings below it, at their times."""
    found = answer.found
    total = found.duration_s or 0.0
    if total <= 0:
        return ""
    short = total <= _SHORT_S
    width = _SECOND * total if short else 300.0
    drawn = "".join(_columns(answer.levels, found.segments, total, colours))
    words, lanes = _placed(found.segments, total, width, colours) if short else ("", 0)
    ticks = "".join(
        f'<span class="vx-tick" style="left:{100 * at / total:.2f}%">{_clock(at)}</span>'
        for at in _ticks(total)
    )
    return (
        '<div class="vx-scroll" tabindex="0" role="group" aria-label="words and emotions over the waveform">'
        f'<div class="vx-time" style="min-width:{width:.0f}px">'
        f'<svg viewBox="0 0 {COLUMNS} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
        f'<div class="vx-lanes" style="height:{26 * lanes}px">{words}</div>'
        f'<div class="vx-axis">{ticks}</div><div class="vx-now"></div></div></div>'
    )


def _columns(
    levels: NDArray[np.float32], segments: Sequence[Segment], total: float, colours: Mapping[str, str]
) -> Iterator[str]:
    """A path for each colour."""
    paths: dict[str, list[str]] = {}
    for column, level in enumerate(levels):
        at = (column + 0.5) * total / len(levels)
        emotion = next((one.emotion for one in segments if one.start_s <= at < one.end_s), None)
        colour = "#c3c7cf" if emotion is None else colours.get(emotion, _PLAIN)
        half = max(0.8, float(level) * (_HEIGHT - 4) / 2)
        paths.setdefault(colour, []).append(
            f"M{column + 0.15:.2f} {_HEIGHT / 2 - half:.1f}h.7v{2 * half:.1f}h-.7z"
        )
    for colour, parts in paths.items():
        yield f'<path fill="{colour}" d="{"".join(parts)}"/>'


def _placed(
    segments: Sequence[Segment], total: float, width: float, colours: Mapping[str, str]
) -> tuple[str, int]:
    """Words at their times, each in the first lane with room, and how many lanes they take."""
    free = [0.0] * _LANES
    shown = []
    for segment in segments:
        colour = colours.get(segment.emotion or "", _PLAIN)
        share = (segment.probabilities or {}).get(segment.emotion or "", 0.0)
        title = f"{segment.emotion} {100 * share:.0f} %" if segment.emotion else ""
        for word in _timed(segment):
            left = word.start_s / total * width
            lane = min(range(_LANES), key=lambda k: (free[k] > left, free[k] if free[k] > left else k))
            left = min(max(left, free[lane]), max(0.0, width - _LETTER * len(word.text) - _GAP))
            free[lane] = left + _LETTER * len(word.text) + _GAP
            shown.append(
                f'<span class="vx-word" title="{escape(title)}" onclick="{_play(word.start_s)}" '
                f'style="left:{100 * left / width:.2f}%;top:{26 * lane}px;background:{colour}">'
                f"{escape(word.text)}</span>"
            )
    return "".join(shown), sum(end > 0 for end in free)


def _timed(segment: Segment) -> Sequence[Word]:
    """The words of a segment with times; those that have none are spread evenly."""
    if segment.words or not segment.transcript:
        return segment.words
    words = segment.transcript.split()
    step = segment.duration_s / len(words)
    return [
        Word(text, segment.start_s + k * step, segment.start_s + (k + 1) * step)
        for k, text in enumerate(words)
    ]


def _play(at: float) -> str:
    """Plays the clip from a time, where it can be played."""
    find = "var a=this.closest('.vx').querySelector('audio')"
    return f"{find};if(a){{a.currentTime={at:.2f};a.play()}}"


def _player(clip: NDArray[np.float32]) -> str:
    """The clip itself, within the page: the server keeps no file of it."""
    if not len(clip):
        return ""
    file = io.BytesIO()
    soundfile.write(file, clip, SAMPLE_RATE, format="MP3")
    data = base64.b64encode(file.getvalue()).decode()
    move = (
        "var n=this.closest('.vx').querySelector('.vx-now');"
        "if(n&&this.duration){n.style.left=(100*this.currentTime/this.duration)+'%';n.style.opacity=1}"
    )
    return f'<audio controls ontimeupdate="{move}" src="data:audio/mpeg;base64,{data}"></audio>'


def _bars(shares: Mapping[str, float] | None, colours: Mapping[str, str]) -> str:
    if not shares:
        return ""
    rows = "".join(
        f'<div class="vx-bar"><span>{escape(name)}</span><span class="vx-track"><i style="width:'
        f'{100 * share:.1f}%;background:{colours.get(name, _PLAIN)}"></i></span>'
        f"<b>{100 * share:.0f} %</b></div>"
        for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
    )
    return f'<div class="vx-bars">{rows}</div>'


def _segments(found: Recognition, colours: Mapping[str, str]) -> str:
    """The list of segments, where there are several."""
    if len(found.segments) < 2:
        return ""
    rows = "".join(
        f'<div class="vx-part"><span class="vx-when">{_clock(part.start_s)} - {_clock(part.end_s)}</span>'
        f'<span class="vx-chip vx-small" style="background:{colours.get(part.emotion or "", _PLAIN)}">'
        f"{escape(part.emotion or part.note or '')}</span><span>{escape(part.transcript or '')}</span></div>"
        for part in found.segments[:_ROWS]
    )
    more = len(found.segments) - _ROWS
    rest = f'<p class="vx-note">and {more} more; take the API for all of them.</p>' if more > 0 else ""
    return f'<div class="vx-parts">{rows}{rest}</div>'


def _notes(found: Recognition) -> str:
    summaries = [summary_line(one) for one in found.summaries] if len(found.segments) > 1 else []
    lines = [*([found.note] if found.note else []), *summaries]
    return "".join(f'<p class="vx-note">{escape(line)}</p>' for line in lines)


def _column(title: str, found: Recognition, colours: Mapping[str, str], words: str) -> str:
    emotion = found.emotion
    share = (found.probabilities or {}).get(emotion or "", 0.0)
    chip = (
        f'<span class="vx-chip" style="background:{colours.get(emotion, _PLAIN)}">{escape(emotion)} '
        f"{100 * share:.0f} %</span>"
        if emotion
        else ""
    )
    bars = _bars(found.probabilities, colours)
    return f'<div><h4>{escape(title)}</h4>{chip}<p class="vx-words">{words}</p>{bars}</div>'


def _words(words: Sequence[str], others: Sequence[str]) -> str:
    """Words, those marked that the others have not at this place."""
    from difflib import SequenceMatcher

    same: set[int] = set()
    for block in SequenceMatcher(None, words, others, autojunk=False).get_matching_blocks():
        same |= set(range(block.a, block.a + block.size))
    if not words:
        return "(no words)"
    return " ".join(
        escape(word) if k in same else f"<mark>{escape(word)}</mark>" for k, word in enumerate(words)
    )


def _ticks(total: float) -> list[float]:
    step = next((s for s in (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600) if total / s <= 7), 1800)
    return [k * step for k in range(int(total / step) + 1) if k * step <= 0.97 * total]


def _clock(at: float) -> str:
    if at < 60:
        return f"{at:.1f} s" if at % 1 else f"{at:.0f} s"
    return f"{int(at) // 60}:{int(at) % 60:02d}"
