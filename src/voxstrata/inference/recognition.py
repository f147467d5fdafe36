"""What was recognised in a recording: segments on one time axis, summaries, and one row over all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from voxstrata.evaluation.shown import html_table, percent
from voxstrata.inference.words import Word, text_of
from voxstrata.labels import DIMENSIONS
from voxstrata.predictions import Prediction, in_short

Shares = Mapping[str, float]


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording with its answers; what the model cannot predict is None.

    Args:
        start_s: in seconds from the beginning of the recording.
        end_s: likewise.
        emotion: the most probable class.
        probabilities: class name -> probability.
        transcript: recognised words.
        words: the same words, each with its time, where they are timed.
        ratings: arousal, valence, dominance on the scale of the training corpus.
        classes: of further tasks, field -> class name -> probability.
        channel: of the recording, from 1; None: all of them, mixed.
        speaker: whose turn it is; None: not known.
        note: what one should know of it, e.g. that it is silent.
        unsure: whether the emotion's probability is too low; None: that was not asked.
    """

    start_s: float
    end_s: float
    emotion: str | None = None
    probabilities: Shares | None = None
    transcript: str | None = None
    words: tuple[Word, ...] = ()
    ratings: Shares | None = None
    classes: Mapping[str, Shares] | None = None
    channel: int | None = None
    speaker: str | None = None
    note: str | None = None
    unsure: bool | None = None

    @property
    def duration_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s

    def as_dict(self) -> dict[str, Any]:
        """Its JSON: times in seconds as `start` and `end`, absent fields left out."""
        words = [
            {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for word in self.words
        ]
        times = {"start": round(self.start_s, 3), "end": round(self.end_s, 3)}
        return (
            times
            | _present(self, left_out=("start_s", "end_s", "words"))
            | ({"words": words} if words else {})
        )

    def __repr__(self) -> str:
        """One line: times and answers, long texts cut."""
        shown = _present(self, left_out=("start_s", "end_s", "words", "probabilities"))
        share = _share_of(self.emotion, self.probabilities)
        return f"Segment({self.start_s:.2f}, {self.end_s:.2f}, {in_short({**shown, 'probability': share})})"


@dataclass(frozen=True)
class Summary:
    """What was answered over a recording, one of its channels, or one of its speakers.

    Args:
        channel: from 1; None: all of them.
        speaker: None: all of them, or not known.
        speech_s: seconds of all segments.
        shares: emotion -> share of these seconds in which it is the most probable one.
        probabilities: emotion -> mean probability, weighted by seconds.
        ratings: mean arousal, valence, dominance, weighted by seconds.
    """

    channel: int | None = None
    speaker: str | None = None
    speech_s: float = 0.0
    shares: Shares | None = None
    probabilities: Shares | None = None
    ratings: Shares | None = None

    def as_dict(self) -> dict[str, Any]:
        """Its JSON: seconds of speech as `speech`, absent fields left out."""
        return {**_present(self, left_out=("speech_s",)), "speech": round(self.speech_s, 3)}


@dataclass(frozen=True, repr=False)
class Recognition:
    """What was recognised in a recording; what the model cannot predict is None.

    Args:
        segments: in order of time. A recording that is answered as one clip has one, as long as itself.
        duration_s: of the recording, in seconds; None where it was not read.
        summaries: over channels and speakers; () where the recording was answered as one clip.
        row: the answer over the whole recording, as in a predictions file. Of a recording in segments its
            probabilities are means over their seconds. Not compared.

    Example:
        ``found = recognizer("call.wav")``; then ``found.emotion``, ``found.probabilities["anger"]`` and
        ``[(part.start_s, part.emotion) for part in found.segments]``.
    """

    segments: tuple[Segment, ...]
    duration_s: float | None
    summaries: tuple[Summary, ...] = ()
    row: Prediction = field(default=Prediction(""), compare=False)

    @property
    def emotion(self) -> str | None:
        """The most probable class."""
        return self.row.emotion

    @property
    def unsure(self) -> bool | None:
        """Whether its probability is too low; None: that was not asked."""
        return self.row.unsure

    @property
    def probabilities(self) -> Shares | None:
        """Class name -> probability."""
        return self.row.probabilities

    @property
    def transcript(self) -> str | None:
        """Recognised words."""
        return self.row.transcript

    @property
    def ratings(self) -> Shares | None:
        """Arousal, valence, dominance on the scale of the training corpus."""
        return ratings_of(self.row)

    @property
    def classes(self) -> Mapping[str, Shares] | None:
        """Of further tasks, field -> class name -> probability."""
        return self.row.classes

    @property
    def note(self) -> str | None:
        """What one should know of the recording, e.g. that its band is narrow."""
        return self.row.note

    @property
    def error(self) -> str | None:
        """Why there is no answer; None where there is one."""
        return self.row.error

    def as_dict(self) -> dict[str, Any]:
        """Its JSON: a row of a predictions file; in segments, these and the summaries beside."""
        if not self.summaries:
            return self.row.as_dict()
        return {
            **self.row.as_dict(),
            "duration": None if self.duration_s is None else round(self.duration_s, 3),
            "segments": [segment.as_dict() for segment in self.segments],
            "summaries": [summary.as_dict() for summary in self.summaries],
        }

    def __repr__(self) -> str:
        """One line: what was recognised, long texts cut."""
        shown = {
            "emotion": named_emotion(self),
            "probability": _share_of(self.emotion, self.probabilities),
            "transcript": self.transcript,
            "ratings": self.ratings,
            "classes": self.classes,
            "note": self.note,
            "error": self.error,
            "segments": len(self.segments) if self.summaries else None,
        }
        return f"Recognition({in_short(shown)})"

    def _repr_html_(self) -> str:
        title = named_emotion(self) or "recognised"
        notes = [text for text in (self.transcript, self.note, self.error) if text]
        if not self.summaries:
            return html_table(title, ("class", "percent, or rating"), [*_numbers(self.row)], notes)
        rows = [
            (
                f"{part.start_s:.2f}",
                f"{part.end_s:.2f}",
                _who(part),
                named_emotion(part) or "",
                "" if part.emotion is None else percent((part.probabilities or {}).get(part.emotion, 0.0)),
                part.transcript or "",
                part.note or "",
            )
            for part in self.segments
        ]
        headings = ("start, s", "end, s", "who", "emotion", "percent", "words", "note")
        return html_table(title, headings, rows, [*notes, *map(summary_line, self.summaries)])


def named_emotion(answer: Segment | Recognition | Prediction) -> str | None:
    """The emotion for people, with whether it is unsure.

    >>> named_emotion(Prediction("a", emotion="anger", unsure=True))
    'anger, unsure'
    """
    return f"{answer.emotion}, unsure" if answer.emotion and answer.unsure else answer.emotion


def of_one_clip(row: Prediction, duration_s: float) -> Recognition:
    """A recording that was answered as one clip."""
    segment = Segment(
        0.0,
        duration_s,
        row.emotion,
        row.probabilities,
        row.transcript,
        ratings=ratings_of(row),
        classes=row.classes,
        unsure=row.unsure,
    )
    return Recognition((segment,), duration_s, (), row)


def of_segments(about: Prediction, segments: Iterable[Segment], duration_s: float) -> Recognition:
    """A recording that was answered in segments.

    Args:
        about: what is known of the recording (id, path, note).
        segments: in any order.
        duration_s: of the recording.
    """
    parts = tuple(sorted(segments, key=lambda part: (part.start_s, part.end_s, part.channel or 0)))
    texts = [part.transcript for part in parts if part.transcript is not None]
    means = _means(parts, lambda part: part.probabilities)
    answers: dict[str, Any] = {
        "emotion": None if means is None else max(means, key=means.__getitem__),
        "probabilities": means,
        "transcript": text_of(word for text in texts for word in text.split()) if texts else None,
        "classes": _class_means(parts),
        **(_means(parts, lambda part: part.ratings) or {}),
    }
    row = replace(about, **answers)
    return Recognition(parts, duration_s, summaries_of(parts), row)


def summaries_of(segments: Sequence[Segment]) -> tuple[Summary, ...]:
    """Summaries of each channel and speaker in the order in which they come; of all where there are none."""
    groups: dict[tuple[int | None, str | None], list[Segment]] = {}
    for segment in segments:
        groups.setdefault((segment.channel, segment.speaker), []).append(segment)
    if not groups:
        return (Summary(),)
    ordered = sorted(groups.items(), key=lambda group: group[0][0] or 0)
    return tuple(_summary(channel, speaker, parts) for (channel, speaker), parts in ordered)


def _summary(channel: int | None, speaker: str | None, parts: Sequence[Segment]) -> Summary:
    seconds: dict[str, float] = {}
    for part in parts:
        if part.emotion is not None:
            seconds[part.emotion] = seconds.get(part.emotion, 0.0) + part.duration_s
    total = sum(seconds.values())
    shares = {name: seconds[name] / total for name in sorted(seconds, key=lambda name: -seconds[name])}
    return Summary(
        channel,
        speaker,
        sum(part.duration_s for part in parts),
        shares or None,
        _means(parts, lambda part: part.probabilities),
        _means(parts, lambda part: part.ratings),
    )


def weighted_mean(parts: Iterable[tuple[float, Shares]]) -> dict[str, float] | None:
    """The mean of numbers by name, each with its weight; None where there are none."""
    sums: dict[str, float] = {}
    total = 0.0
    for weight, numbers in parts:
        total += weight
        for name, number in numbers.items():
            sums[name] = sums.get(name, 0.0) + weight * number
    return {name: value / total for name, value in sums.items()} if total > 0 else None


def _means(parts: Iterable[Segment], numbers: Callable[[Segment], Shares | None]) -> dict[str, float] | None:
    found = ((part.duration_s, numbers(part)) for part in parts)
    return weighted_mean((seconds, those) for seconds, those in found if those is not None)


def _class_means(parts: Sequence[Segment]) -> dict[str, Shares] | None:
    names = dict.fromkeys(name for part in parts for name in part.classes or {})
    means = {
        name: weighted_mean(
            (part.duration_s, part.classes[name])
            for part in parts
            if part.classes is not None and name in part.classes
        )
        for name in names
    }
    return {name: shares for name, shares in means.items() if shares is not None} or None


def ratings_of(row: Prediction) -> dict[str, float] | None:
    """Arousal, valence and dominance of a row, as far as it has them."""
    return {name: value for name in DIMENSIONS if (value := getattr(row, name)) is not None} or None


def summary_line(summary: Summary) -> str:
    """A summary for people.

    >>> summary_line(Summary(1, None, 75.0, {"anger": 0.75, "neutral": 0.25}))
    'channel 1: 0:01:15 of speech: anger 75 %, neutral 25 %'
    """
    seconds = round(summary.speech_s)
    length = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} of speech"
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in (summary.shares or {}).items())
    ratings = ", ".join(f"{name} {value:.2f}" for name, value in (summary.ratings or {}).items())
    who = _who(summary)
    return ": ".join(filter(None, (who, length, shares, ratings)))


def _who(of: Segment | Summary) -> str:
    """Channel and speaker, as far as they are known."""
    channel = None if of.channel is None else f"channel {of.channel}"
    return ", ".join(filter(None, (channel, of.speaker)))


def _numbers(row: Prediction) -> Iterator[tuple[str, str]]:
    """Classes in percent, and ratings, of a row."""
    for task, shares in {"": row.probabilities or {}, **(row.classes or {})}.items():
        for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
            yield f"{task} {name}".strip(), percent(share)
    for name, value in (ratings_of(row) or {}).items():
        yield name, f"{value:.2f}"


def _share_of(emotion: str | None, probabilities: Shares | None) -> float | None:
    share = None if emotion is None else (probabilities or {}).get(emotion)
    return None if share is None else round(share, 3)


def _present(of: Segment | Summary, left_out: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an object that have a value, for JSON."""
    values = {name.name: getattr(of, name.name) for name in fields(of) if name.name not in left_out}
    return {
        name: _plain(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }


def _plain(value: Any) -> Any:
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, Mapping) else value
