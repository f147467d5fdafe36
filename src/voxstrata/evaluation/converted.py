"""Saved outputs of other systems as rows of a predictions file: FunASR, vox-profile, transformers pipelines.

FunASR's `generate` gives objects with `key` and `text` (SenseVoice, with tags as <|HAPPY|>) or `labels` and
`scores` (emotion2vec+). A pipeline of transformers gives lists of `label` and `score`. vox-profile gives one
number for each class, in the order of its examples.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from voxstrata.documents import parse_json
from voxstrata.errors import PredictionsError, VoxstrataError, first_of
from voxstrata.labels import DIMENSIONS, as_ours
from voxstrata.predictions import Prediction, checked_rows

#: vox-profile's classes in the order of its outputs.
VOX_PROFILE = (
    *("Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise"),
    "Other",
)
#: Names of emotions in SenseVoice's tags; other tags are languages, events and forms of numbers.
_TAGGED = {
    "HAPPY": "happiness", "SAD": "sadness", "ANGRY": "anger", "NEUTRAL": "neutral", "FEARFUL": "fear",
    "DISGUSTED": "disgust", "SURPRISED": "surprise", "EMO_UNKNOWN": "unknown",
}  # fmt: skip
_TAG = re.compile(r"<\s*\|\s*([^|<>]*?)\s*\|\s*>")
#: What takes the place of the tags in text that was made pretty.
_PICTURES = re.compile("[\U0001f600-\U0001f64f\U0001f3bc\U0001f44f\U0001f92e\U0001f922\U0001f927]")
_PATHS, _IDS = ("path", "file", "filename", "audio", "wav"), ("id", "key")
_LISTS = ("predictions", "output", "outputs", "result")
_NUMBERS = ("probabilities", "probs", "scores", "logits")

Answers = dict[str, Any]


def converted(kind: str, content: bytes, name: str) -> list[Prediction]:
    """The rows of a saved output, without references.

    Args:
        kind: one of `KINDS`.
        content: JSON, or JSON lines.
        name: of the file, for messages.

    Raises:
        PredictionsError: naming the place that cannot be read.
    """
    if kind not in KINDS:
        raise PredictionsError(f"there is no kind {kind!r}; there are {', '.join(KINDS)}")
    rows = []
    for place, value in _objects(content, name):
        about = value if isinstance(value, Mapping) else {}
        path = next((str(about[key]) for key in _PATHS if isinstance(about.get(key), str)), None)
        known = next((str(about[key]) for key in _IDS if isinstance(about.get(key), str | int)), path)
        answers = KINDS[kind](value, f"{name}, {place}")
        rows.append((place, {"id": known or place, "path": path, **answers}))
    return checked_rows(rows, name)


def _objects(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    """Where each recording's output stands, and the output: of lists, of lines, or of an object by path."""
    advice = "save the tool's output as JSON, or as one JSON value a line"

    def parsed(text: bytes, what: str) -> Any:
        return parse_json(text, what, error=PredictionsError, advice=advice)

    lines = [(k, line) for k, line in enumerate(content.splitlines(), start=1) if line.strip()]
    try:
        values = [(f"line {lines[0][0]}", parsed(lines[0][1], name))] if lines else []
    except VoxstrataError:
        values = [("the whole", parsed(content, name))]
    else:
        values += [(f"line {k}", parsed(line, f"{name}, line {k}")) for k, line in lines[1:]]
    for place, value in values:
        if isinstance(value, list) and not _is_scored(value):
            # Of one recording in a line there is one list of one object: the place stays the line.
            for number, one in enumerate(value, start=1):
                yield (place if len(value) == 1 else f"{place}, entry {number}"), one
        elif isinstance(value, Mapping) and value and all(isinstance(one, list) for one in value.values()):
            if "labels" in value or "scores" in value:
                yield place, value
            else:
                yield from ((f"entry {path!r}", {"path": path, "output": one}) for path, one in value.items())
        else:
            yield place, value


def _is_scored(value: Any) -> bool:
    """Whether it is what a classification pipeline gives for one recording."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, Mapping) and {"label", "score"} <= one.keys() for one in value)
    )


def _of_funasr(value: Any, where: str) -> Answers:
    if not isinstance(value, Mapping):
        raise PredictionsError(f"{where}: FunASR gives objects with key, and text or labels and scores")
    if "labels" in value:
        labels, scores = value["labels"], value.get("scores")
        if isinstance(scores, list) and any(isinstance(one, list) for one in scores):
            raise PredictionsError(f'{where}: scores are of frames; run it with granularity="utterance"')
        names = [_of_emotion2vec(str(label)) for label in labels] if isinstance(labels, list) else []
        return _scored(names, scores, where)
    text = value.get("text")
    if not isinstance(text, str):
        raise PredictionsError(f"{where}: there is no text, and no labels with scores; save the whole output")
    tags = _TAG.findall(text)
    if not tags and _PICTURES.search(text):
        raise PredictionsError(
            f"{where}: the tags are pictures, and neutral has none; save text as generate gives it, before "
            "rich_transcription_postprocess"
        )
    emotions = Counter(_TAGGED[tag.upper()] for tag in tags if tag.upper() in _TAGGED)
    if len(emotions) > 1:
        emotions.pop("unknown", None)
    # Of several stretches that have their own tags the most frequent emotion, of equals the first.
    emotion = max(emotions, key=emotions.__getitem__) if emotions else None
    return {"emotion": emotion, "transcript": " ".join(_TAG.sub(" ", text).split())}


def _of_emotion2vec(label: str) -> str:
    """`生气/angry` -> anger, `<unk>` -> unknown."""
    name = label.rpartition("/")[2].strip()
    return "unknown" if name == "<unk>" else as_ours(name)


def _of_transformers(value: Any, where: str) -> Answers:
    found = value
    if isinstance(value, Mapping):
        found = next((value[key] for key in _LISTS if key in value), None)
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    if _is_scored(found):
        return _scored([as_ours(str(one["label"])) for one in found], [one["score"] for one in found], where)
    text = value.get("text") if isinstance(value, Mapping) else None
    if isinstance(text, str):
        return {"transcript": text.strip()}
    raise PredictionsError(
        f'{where}: a classification gives a list of {{"label", "score"}}, speech recognition an object with '
        f'text; beside them stands the path: {{"path": ..., "output": [...]}}'
    )


def _of_vox_profile(value: Any, where: str) -> Answers:
    if not isinstance(value, Mapping):
        raise PredictionsError(f"{where}: an object with path and probabilities or logits is needed")
    answers: Answers = {name: value[name] for name in DIMENSIONS if name in value}
    field = next((name for name in _NUMBERS if name in value), None)
    if field is not None:
        numbers = value[field]
        if isinstance(numbers, Mapping):
            names, numbers = [*numbers], [*numbers.values()]
        else:
            while isinstance(numbers, list) and len(numbers) == 1 and isinstance(numbers[0], list):
                numbers = numbers[0]
            names = [*VOX_PROFILE]
        if field == "logits":
            numbers = _softmax(numbers, where)
        answers |= _scored([as_ours(str(name)).lower() for name in names], numbers, where)
    elif isinstance(value.get("emotion"), str):
        answers["emotion"] = as_ours(value["emotion"]).lower()
    if not answers:
        raise PredictionsError(
            f"{where}: none of {', '.join((*_NUMBERS, 'emotion', *DIMENSIONS))} is there; save one of them"
        )
    return answers


def _softmax(logits: Any, where: str) -> list[float]:
    if not isinstance(logits, list) or not all(_is_number(one) for one in logits) or not logits:
        raise PredictionsError(f"{where}: logits are a list of finite numbers; save logits[0].tolist()")
    powers = [math.exp(one - max(logits)) for one in logits]
    return [one / sum(powers) for one in powers]


def _scored(names: Sequence[str], scores: Any, where: str) -> Answers:
    """The answers that names and numbers beside them make; those of one name are added."""
    good = isinstance(scores, list) and len(scores) == len(names) and all(map(_is_number, scores))
    if not good or not names:
        count = len(scores) if isinstance(scores, list) else "no"
        raise PredictionsError(
            f"{where}: {len(names)} classes have {count} scores; a finite number for each is needed"
        )
    shares: dict[str, float] = {}
    for name, score in zip(names, scores, strict=True):
        shares[name] = shares.get(name, 0.0) + score
    answers: Answers = {"emotion": max(shares, key=shares.__getitem__)}
    # The best few, or scores that are none of classes that exclude each other, are no probabilities.
    if all(0 <= share <= 1 for share in shares.values()) and abs(sum(shares.values()) - 1) <= 0.01:
        answers["probabilities"] = shares
    return answers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


#: Kind of output -> what reads the output of one recording.
KINDS: dict[str, Callable[[Any, str], Answers]] = {
    "funasr": _of_funasr,
    "vox-profile": _of_vox_profile,
    "transformers": _of_transformers,
}


def with_references(rows: Sequence[Prediction], references: Sequence[Prediction]) -> list[Prediction]:
    """Rows with the ids, speakers and references of their recordings, in the order of the references.

    A row is matched by its id or path, else by the name of its file, else by that without its end.

    Raises:
        PredictionsError: if a row fits no reference, or several.
    """
    places = [_by_name(references, form) for form in _FORMS]
    fields = ["reference_emotion", "reference_transcript", "reference_classes", "speaker"]
    fields += [f"reference_{name}" for name in DIMENSIONS]
    found: dict[str, Prediction] = {}
    for row in rows:
        known = _reference_of(row, places)
        if known.id in found:
            raise PredictionsError(f"two outputs are of the recording {known.id!r}; leave one of them out")
        values: dict[str, Any] = {name: getattr(known, name) for name in fields}
        found[known.id] = replace(row, id=known.id, path=known.path or row.path, **values)
    return [found[known.id] for known in references if known.id in found]


def _by_name(
    references: Sequence[Prediction], form: Callable[[str], str]
) -> dict[str, dict[str, Prediction]]:
    """Name of a recording in a form -> the references that have it, by id."""
    places: dict[str, dict[str, Prediction]] = {}
    for one in references:
        for name in filter(None, (one.id, one.path)):
            places.setdefault(form(name), {})[one.id] = one
    return places


def _reference_of(row: Prediction, places: Sequence[Mapping[str, Mapping[str, Prediction]]]) -> Prediction:
    for form, by_name in zip(_FORMS, places, strict=True):
        fits: dict[str, Prediction] = {}
        for name in filter(None, (row.id, row.path)):
            fits |= by_name.get(form(name), {})
        if len(fits) > 1:
            raise PredictionsError(
                f"the output {row.id!r} fits {first_of(fits)}; save outputs with whole paths or ids"
            )
        if fits:
            return next(iter(fits.values()))
    there = next(iter(places[0]), "none")
    raise PredictionsError(
        f"the output {row.id!r} is of no recording of the references, such as {there!r}; give the references "
        "that have it"
    )


def _stem(name: str) -> str:
    """The name of a file without its end; an id may have dots of its own."""
    path = Path(name)
    return path.stem if re.fullmatch(r"\.[A-Za-z]\w{1,4}", path.suffix) else path.name


#: How a recording may be named, from whole to short.
_FORMS: tuple[Callable[[str], str], ...] = (str, lambda name: PurePath(name).name, _stem)
